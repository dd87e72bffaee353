"""Text files to training shards, in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._process import available_cores
from zhuzi._show import Report, count
from zhuzi.record.place import require_replaceable
from zhuzi.tokenizer import Tokenizer

#: Input bytes (unpacked) after which a shard ends: 20 GB become some forty shards.
SHARD_BYTES = 512 << 20

#: A longer record is a bad one.
MAX_RECORD_BYTES = 64 << 20

Paths = Sequence[str | os.PathLike[str]]
Progress = Callable[[int, int, int, int], object]


@dataclass(frozen=True, repr=False)
class EncodedCorpus(Report):
    """What `encode_corpus` made (its `manifest.json` says more)."""

    folder: Path
    outcome: Literal["finished", "already", "unsealed"]
    """`already`: this very corpus was there before, nothing was done. `unsealed`: a part is done; the same
    call without `part` does what is missing and writes the manifest."""
    documents: int
    tokens: int
    characters: int
    """Code points of the documents written."""
    text_bytes: int
    """UTF-8 bytes of the documents written."""
    input_bytes: int
    """Unpacked bytes of the input."""
    empty_documents: int
    """Documents without characters, left out."""
    short_documents: int
    long_documents: int
    foreign_documents: int
    """Documents with too small a share of Han, left out."""
    unsampled_documents: int
    duplicate_documents: int
    bad_records: int
    """Records put aside in `rejects.jsonl`."""
    shards: int
    tasks: int
    """Parts the work was planned in."""
    resumed: int
    """Those that an earlier run had done."""
    missing: tuple[int, ...]
    """Those that nobody has done yet."""
    read_bytes: int
    """Unpacked bytes that this call itself read."""
    encoded_bytes: int
    """Bytes of text that this call itself encoded."""
    files: int
    """Files read; a file given twice (by another path, through a link) is one."""
    other_kinds: Mapping[str, int]
    """Files of kinds that are not read, in folders and patterns, by the endings of their names; left out.
    Also `folder`, for folders that a pattern matches and does not look into, and `pipe or device`."""
    hidden: int
    """Hidden files and folders (names with a dot first, `__MACOSX`) in folders and patterns, left out."""
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
    inputs: str | os.PathLike[str] | Paths,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    field: str | Sequence[str] = "text",
    split: Literal["line", "blank-line", "separator", "file"] = "line",
    separator: str | None = None,
    stdin_format: Literal["jsonl", "txt"] = "jsonl",
    bos: bool = False,
    eos: bool = True,
    fold_fullwidth: bool = False,
    clean: bool = False,
    min_chars: int | None = None,
    max_chars: int | None = None,
    min_han: float | None = None,
    sample: float | None = None,
    dedup: bool = False,
    limit: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_record_bytes: int = MAX_RECORD_BYTES,
    shard_bytes: int = SHARD_BYTES,
    num_threads: int | None = None,
    overwrite: bool = False,
    append: bool = False,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> EncodedCorpus:
    """Encode text files into Megatron shards in the folder `out`; called again, go on where a run stopped.

    Inputs are files, folders, patterns or `-` (standard input, read as `stdin_format`): `.jsonl`, `.ndjson`
    and `.json` (an object a line or one JSON array, the text in `field`; several fields are joined by a
    newline), `.txt` (cut by `split`), each also with `.gz`, `.zst`, `.xz` or `.bz2` added, `.parquet` and
    `.arrow` (the text in the column `field`). A field may be a path (`content.text`), also through lists; a
    list of texts is joined by newlines; where `field` is "text", a JSON string is a document by itself.
    Inputs keep the order given; what a folder or pattern holds is taken by path bytes, without hidden files
    and other kinds, which are counted; a file given twice is read once. Shard names sort in document order.
    Each document is one sequence, begun by the begin-of-sequence id with `bos` and ended by the
    end-of-sequence id unless `eos` is off.

    What may be done to a text: `fold_fullwidth` (full-width letters and digits become plain ones), `clean`
    (control characters and spare white space go). Which documents stay, judged after that: `min_chars` and
    `max_chars` code points, `min_han` (share of Han among what is no white space), `sample` (a share; a hash
    of the document decides), `dedup` (the first of equal ones; 20 to 60 bytes of memory for each document
    kept), `limit` (the first ones). All are counted in what is returned.

    The files depend on the inputs and on these options, never on `num_threads`, interruptions or `part`. A
    record that cannot be read, or has more than `max_record_bytes`, stops the run, or with `on_error="skip"`
    goes to `rejects.jsonl` with the reason. `part=(i, n)` does one of n parts (i from 0) of the same work,
    side by side with others; the same call without it does what is missing and seals the corpus. `append`
    adds the inputs that a finished corpus does not know yet. `overwrite` starts anew in a folder that Zhuzi
    wrote, unless that holds an unfinished run of the same request.
    `progress(bytes, total_bytes, documents, tokens)` is
    called a few times a second; what it raises ends the run.

    Raises:
        InputError: names file, line and byte of the first bad record, or a file that is damaged or changes.
        OutputExistsError: `out` holds something else, was begun with other inputs or options (the message
            says which), or another run works there.
        ValueError: options that cannot go together, or inputs that stand for no document.
        OSError: what the system refuses, a full disk for instance. What is committed stays; call again.
    """
    inputs, tokenizer = claim(inputs, tokenizer, out, overwrite=overwrite)
    options = encode_options(
        field=field,
        split=split,
        separator=separator,
        stdin_format=stdin_format,
        bos=bos,
        eos=eos,
        fold_fullwidth=fold_fullwidth,
        clean=clean,
        min_chars=min_chars,
        max_chars=max_chars,
        min_han=min_han,
        sample=sample,
        dedup=dedup,
        limit=limit,
        max_record_bytes=max_record_bytes,
        shard_bytes=shard_bytes,
    )
    report = _core.encode_corpus(
        inputs,
        tokenizer._core,
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
    return report_of(out, report)


def claim(
    inputs: str | os.PathLike[str] | Paths,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    overwrite: bool,
) -> tuple[Paths, Tokenizer]:
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


def encode_options(
    *,
    field: str | Sequence[str] = "text",
    split: str = "line",
    separator: str | None = None,
    stdin_format: str = "jsonl",
    bos: bool = False,
    eos: bool = True,
    fold_fullwidth: bool = False,
    clean: bool = False,
    min_chars: int | None = None,
    max_chars: int | None = None,
    min_han: float | None = None,
    sample: float | None = None,
    dedup: bool = False,
    limit: int | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """The options that decide the bytes, as the core reads them."""
    if (split == "separator") != (separator is not None):
        raise ValueError("split='separator' and a separator belong together; give both or neither")
    for name, value in (("shard_bytes", shard_bytes), ("max_record_bytes", max_record_bytes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    options = {
        "fields": [field] if isinstance(field, str) else list(field),
        "split": {"separator": separator} if separator is not None else split,
        "stdin": stdin_format,
        "bos": bos,
        "eos": eos,
        "fold_fullwidth": fold_fullwidth,
        "clean": clean,
        "min_chars": min_chars,
        "max_chars": max_chars,
        "min_han": min_han,
        "sample": sample,
        "dedup": dedup,
        "limit": limit,
        "max_record_bytes": max_record_bytes,
        "shard_bytes": shard_bytes,
    }
    return json.dumps(options)


def skips_bad(on_error: str) -> bool:
    """True for `skip`, false for `stop`."""
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error must be 'stop' or 'skip', not {on_error!r}")
    return on_error == "skip"


def report_of(out: str | os.PathLike[str], report: str) -> EncodedCorpus:
    """The core's report as Python has it."""
    values = json.loads(report)
    values["missing"] = tuple(values["missing"])
    values |= values.pop("left_out")
    return EncodedCorpus(folder=Path(out), **values)
