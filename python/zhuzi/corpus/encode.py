"""Text files to training shards, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._process import available_cores
from zhuzi._show import Report, count
from zhuzi.corpus.options import CorpusKeywords, CorpusOptions, OnError, options_of, skips_bad
from zhuzi.record.place import PathLike, require_replaceable
from zhuzi.tokenizer import Tokenizer

Progress = Callable[[int, int, int, int], object]
"""Called with bytes done, bytes in all, documents and tokens."""


@dataclass(frozen=True, repr=False)
class EncodedCorpus(Report):
    """What `encode_corpus` made (its `manifest.json` says more)."""

    folder: Path
    outcome: Literal["finished", "already", "unsealed"]
    """`already`: this corpus was complete before, nothing was done. `unsealed`: a part is done; the same call
    without `part` does what is missing and writes the manifest."""
    documents: int
    """Documents written."""
    tokens: int
    """Tokens written, begin- and end-of-sequence ids included."""
    characters: int
    """Code points of the documents written."""
    text_bytes: int
    """UTF-8 bytes of the documents written."""
    input_bytes: int
    """Unpacked bytes of the input."""
    empty_documents: int
    """Documents without characters, left out."""
    short_documents: int
    """Documents of fewer than `min_chars` code points, left out."""
    long_documents: int
    """Documents of more than `max_chars` code points, left out."""
    foreign_documents: int
    """Documents with a share of Han below `min_han`, left out."""
    unsampled_documents: int
    """Documents outside the `sample`, left out."""
    duplicate_documents: int
    """Documents equal to an earlier one, left out with `dedup`."""
    bad_records: int
    """Records put aside in `rejects.jsonl`."""
    shards: int
    tasks: int
    """Tasks of the plan."""
    resumed: int
    """Tasks that an earlier run had done."""
    missing: tuple[int, ...]
    """Tasks that no run has done yet."""
    read_bytes: int
    """Unpacked bytes that this call itself read."""
    encoded_bytes: int
    """Bytes of text that this call itself encoded."""
    files: int
    """Files read; a file given twice (by another path, through a link) counts once."""
    other_kinds: Mapping[str, int]
    """Files in folders and patterns that are of other kinds and were left out, by the endings of their names.
    Also `folder`, for folders that a pattern matches but does not enter, and `pipe or device`."""
    hidden: int
    """Hidden files and folders (a dot first, `__MACOSX`) in folders and patterns, left out."""
    repeated: int
    """Files given twice; each is read once."""
    records_of_tools: int
    """Files that describe a dataset of `datasets` or a corpus of Zhuzi, left out."""

    def _headline(self) -> str:
        return (
            f"{self.folder}: {self.outcome}, {count(self.documents, 'document')}, "
            f"{count(self.tokens, 'token')} in {count(self.shards, 'shard')}"
        )


def encode_corpus(
    inputs: PathLike | Sequence[PathLike],
    tokenizer: PathLike | Tokenizer,
    out: PathLike,
    *,
    options: CorpusOptions | None = None,
    on_error: OnError = "stop",
    num_threads: int | None = None,
    overwrite: bool = False,
    append: bool = False,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
    **keywords: Unpack[CorpusKeywords],
) -> EncodedCorpus:
    """Encode text files into Megatron shards in the folder `out`; called again, resume a run that stopped.

    Inputs are files, folders, patterns or `-` (standard input, read as `stdin_format`): `.jsonl`, `.ndjson`
    and `.json` (one object per line or one JSON array, the text in `field`), `.txt` (cut by `split`), each
    also with `.gz`, `.zst`, `.xz` or `.bz2` added, `.parquet` and `.arrow` (the text in the column `field`).
    Where `field` is "text", a JSON string is a document by itself. Inputs keep the order given; the content
    of a folder or pattern is sorted by path bytes, without hidden files and other kinds, which are counted;
    a file given twice is read once. Shard names sort in document order. Each document is one sequence.

    The options that decide the bytes are those of `CorpusOptions`, as `options` or as keywords:
    `encode_corpus(inputs, tokenizer, out, field="content", eos=False)`. What they leave out is counted in the
    result.

    The files depend on the inputs and on these options, never on `num_threads`, interruptions or `part`. A
    record that cannot be read, or has more than `max_record_bytes`, stops the run, or with `on_error="skip"`
    is written to `rejects.jsonl` with the reason. `part=(i, n)` does part i (from 0) of n, side by side with
    the others; the same call without it does what is missing and seals the corpus. `append` adds the inputs
    that a finished corpus does not know yet. `overwrite` starts over in a folder that Zhuzi wrote, unless the
    folder holds an unfinished run of the same request. `progress(bytes, total_bytes, documents, tokens)` is
    called a few times per second; what it raises ends the run.

    Raises:
        InputError: names file, line and byte of the first bad record, or a file that is damaged or changes.
        OutputExistsError: `out` holds something else, was begun with other inputs or options (the message
            says which), or another run works there.
        ValueError: options that cannot go together, or inputs without any document.
        TypeError: an argument that does not exist, or both `options` and keywords.
        OSError: what the system refuses, a full disk for instance. What is committed stays; call again.
    """
    options = options_of(encode_corpus, keywords, options)
    inputs, tokenizer = claim(inputs, tokenizer, out, overwrite=overwrite)
    report = _core.encode_corpus(
        inputs,
        tokenizer.compiled,
        tokenizer.fingerprint,
        out,
        options,
        threads=num_threads if num_threads is not None else available_cores(),
        overwrite=overwrite,
        append=append,
        skip_bad=skips_bad(on_error),
        part=part,
        plan_only=False,
        progress=progress,
    )
    return EncodedCorpus(
        folder=Path(out),
        outcome=report["outcome"],
        shards=report["shards"],
        tasks=report["tasks"],
        resumed=report["resumed"],
        missing=tuple(report["missing"]),
        read_bytes=report["read_bytes"],
        encoded_bytes=report["encoded_bytes"],
        files=report["files"],
        **report["counts"],
        **report["left_out"],
    )


def claim(
    inputs: PathLike | Sequence[PathLike],
    tokenizer: PathLike | Tokenizer,
    out: PathLike,
    *,
    overwrite: bool,
) -> tuple[Sequence[PathLike], Tokenizer]:
    """The inputs as a list, the tokenizer loaded; refuses an output whose removal would lose something."""
    inputs = one_or_more(inputs)
    if overwrite or not Path(out).is_dir():
        read = [path for path in inputs if path != "-"]
        if not isinstance(tokenizer, Tokenizer):
            read.append(tokenizer)
        require_replaceable(out, read)
    if isinstance(tokenizer, Tokenizer):
        return inputs, tokenizer
    return inputs, Tokenizer.from_dir(tokenizer)
