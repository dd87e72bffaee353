"""What encoding a corpus would take, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._show import Report, count
from zhuzi.corpus.encode import claim
from zhuzi.corpus.options import CorpusKeywords, CorpusOptions, OnError, options_of, skips_bad
from zhuzi.corpus.read import left_out_lines
from zhuzi.errors import OutputExistsError
from zhuzi.record.place import PathLike
from zhuzi.tokenizer import Tokenizer

#: The most files that `CorpusPlan.text` names; it chooses the largest.
SHOWN_FILES = 20


@dataclass(frozen=True, repr=False)
class CorpusPlan(Report):
    """The plan of a corpus. All but files, bytes and tasks are estimated from `sampled_bytes` of input."""

    files: tuple[tuple[str, int], ...]
    """Path and bytes of each file, in document order."""
    bytes: int
    """Bytes of the files."""
    tasks: int
    """Parts that the work is divided into."""
    unpacked_bytes: int
    """Bytes of the files once unpacked."""
    shards: int
    documents: int
    tokens: int
    disk_bytes: int
    """Bytes of all shards."""
    sampled_bytes: int
    other_kinds: Mapping[str, int]
    """Files in folders and patterns that are of other kinds and are left out, by their endings."""
    hidden: int
    """Hidden files and folders in folders and patterns, left out."""
    repeated: int
    """Files given twice; each is read once."""
    records_of_tools: int
    """Files that describe a dataset of `datasets` or a corpus of Zhuzi, left out."""
    unreadable: int
    """Files and folders that cannot be opened, left out."""
    refused: OutputExistsError | None
    """Why `encode_corpus` would refuse to write `out` as it is now; `None` if it would not."""

    def _headline(self) -> str:
        return (
            f"{count(len(self.files), 'file')}, about {count(self.documents, 'document')}, "
            f"{count(self.tokens, 'token')}, {count(self.disk_bytes, 'byte')} of shards"
        )

    def text(self, reason: Callable[[Exception], str] = str) -> str:
        """The plan in words and figures; `reason` words the error of a refused output."""
        shown = sorted(self.files, key=lambda file: -file[1])[:SHOWN_FILES]
        lines = [f"  {size:>18,}  {path}" for path, size in self.files if (path, size) in shown]
        if len(self.files) > len(lines):
            lines.append(f"  and {len(self.files) - len(lines):,} smaller files")
        facts = [
            ("files", len(self.files)),
            ("bytes", self.bytes),
            ("tasks", self.tasks),
            ("bytes unpacked, about", self.unpacked_bytes),
            ("shards, about", self.shards),
            ("documents, about", self.documents),
            ("tokens, about", self.tokens),
            ("bytes of shards, about", self.disk_bytes),
        ]
        lines += [f"{name:<24}{value:>18,}" for name, value in facts]
        lines += left_out_lines(self.other_kinds, self.hidden, self.repeated, self.records_of_tools)
        if self.unreadable:
            lines.append(f"{self.unreadable:,} files or folders cannot be opened and would be left out")
        if any(path == "-" for path, _ in self.files):
            lines.append("standard input is not counted")
        lines.append(f"estimated from {self.sampled_bytes:,} bytes; nothing was written")
        if self.refused is not None:
            lines.append(f"would be refused: {reason(self.refused)}")
        return "\n".join(lines)


def plan_corpus(
    inputs: PathLike | Sequence[PathLike],
    tokenizer: PathLike | Tokenizer,
    *,
    options: CorpusOptions | None = None,
    on_error: OnError = "stop",
    out: PathLike | None = None,
    overwrite: bool = False,
    append: bool = False,
    **keywords: Unpack[CorpusKeywords],
) -> CorpusPlan:
    """Plan `encode_corpus` with these arguments, and estimate tokens and disk space; nothing is written.

    `out` is the folder that would be written: nothing in it is an input, and with `overwrite` and `append` it
    decides whether the run would be refused. `options` or `keywords` are those of `encode_corpus`. The
    estimate is of the whole corpus, done or not; it ignores standard input, and it is an upper bound with
    `dedup` and `limit`. Raises as `encode_corpus` does for wrong inputs.
    """
    options = options_of(plan_corpus, keywords, options)
    refused = None
    if out is not None:
        try:
            inputs, tokenizer = claim(inputs, tokenizer, out, overwrite=overwrite)
        except OutputExistsError as error:
            refused = error
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    estimate = _core.estimate_corpus(
        one_or_more(inputs),
        tokenizer.compiled,
        tokenizer.fingerprint,
        "" if out is None or refused is not None else out,
        options,
        overwrite=overwrite,
        append=append,
        skip_bad=skips_bad(on_error),
    )
    return CorpusPlan(
        files=tuple(estimate["files"]),
        unreadable=estimate["unreadable"],
        refused=refused or estimate["refused"],
        **estimate["figures"],
        **estimate["left_out"],
    )
