"""What encoding a corpus would take, without doing it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._show import Report, count
from zhuzi.corpus.encode import Paths, encode_options, skips_bad
from zhuzi.corpus.read import left_out_lines
from zhuzi.tokenizer import Tokenizer

#: Files named one by one in `CorpusPlan.text`; of more, the largest are.
SHOWN_FILES = 20


@dataclass(frozen=True, repr=False)
class CorpusPlan(Report):
    """The plan of a corpus. All but files, bytes and tasks is estimated from `sampled_bytes` of input."""

    files: tuple[tuple[str, int], ...]
    """Path and bytes of each file, in document order."""
    bytes: int
    tasks: int
    unpacked_bytes: int
    shards: int
    documents: int
    tokens: int
    disk_bytes: int
    """Bytes of all shards."""
    sampled_bytes: int
    other_kinds: Mapping[str, int]
    """Files of kinds that are not read, in folders and patterns, by the endings of their names; left out."""
    hidden: int
    """Hidden files and folders in folders and patterns, left out."""
    repeated: int
    """Files given twice; each is read once."""
    records_of_tools: int
    """Files that describe a dataset of `datasets` or a corpus of Zhuzi, left out."""
    unreadable: int
    """Files and folders that cannot be looked at, passed over."""

    def _headline(self) -> str:
        return (
            f"{count(len(self.files), 'file')}, about {count(self.documents, 'document')}, "
            f"{count(self.tokens, 'token')}, {count(self.disk_bytes, 'byte')} of shards"
        )

    def text(self) -> str:
        """The plan in words and figures."""
        shown = sorted(self.files, key=lambda file: -file[1])[:SHOWN_FILES]
        lines = [f"  {size:>18,}  {path}" for path, size in self.files if (path, size) in shown]
        if len(self.files) > len(lines):
            lines.append(f"  and {len(self.files) - len(lines):,} smaller files")
        facts = [
            ("files", self.files.__len__()),
            ("bytes", self.bytes),
            ("tasks", self.tasks),
            ("bytes unpacked, about", self.unpacked_bytes),
            ("shards, about", self.shards),
            ("documents, about", self.documents),
            ("tokens, about", self.tokens),
            ("bytes of shards, about", self.disk_bytes),
        ]
        lines += [f"{name:<24}{value:>18,}" for name, value in facts]
        lines += left_out_lines(vars(self))
        if self.unreadable:
            lines.append(f"{self.unreadable:,} files or folders cannot be looked at and would be passed over")
        lines.append(f"estimated from {self.sampled_bytes:,} bytes; nothing was written")
        return "\n".join(lines)


def plan_corpus(
    inputs: str | os.PathLike[str] | Paths,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    *,
    on_error: str = "stop",
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> CorpusPlan:
    """Plan `encode_corpus` with these arguments, and estimate tokens and disk; nothing is written.

    `out` is the folder that would be written, no part of the inputs; `settings` are the other arguments of
    `encode_corpus` that decide the output. Duplicates and `limit` are not looked at: the estimate is an upper
    one there. Raises as `encode_corpus` does for wrong inputs.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    options = encode_options(**settings)
    estimate = json.loads(
        _core.estimate_corpus(
            one_or_more(inputs),
            tokenizer._core,
            tokenizer.fingerprint,
            "" if out is None else out,
            options,
            skip_bad=skips_bad(on_error),
        )
    )
    files = tuple((source["path"], source["bytes"]) for source in estimate.pop("sources"))
    return CorpusPlan(files=files, **estimate.pop("left_out"), **estimate)
