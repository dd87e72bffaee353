"""The shards of an encoded corpus merged into one pair of Megatron files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi._show import Report, count
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike


@dataclass(frozen=True, repr=False)
class MergedShards(Report):
    """What `merge_shards` wrote: `<prefix>.bin` and `<prefix>.idx`."""

    prefix: Path
    documents: int
    tokens: int

    def _headline(self) -> str:
        return f"{self.prefix}: {count(self.documents, 'document')}, {count(self.tokens, 'token')}"


def merge_shards(
    corpus: PathLike,
    prefix: PathLike,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> MergedShards:
    """Merge the shards of a corpus into one pair of Megatron files, `<prefix>.bin` and `<prefix>.idx`.

    Each shard is compared with its checksum; the files appear whole or not at all, with `<prefix>.zhuzi.json`
    beside them, by which a later `overwrite` knows them. `progress(bytes)` is called a few times per second
    with the bytes of tokens written.

    Raises:
        OutputExistsError: one of the files is there and `overwrite` is not set, or Zhuzi did not write it, or
            the files would lie in the corpus itself.
        InputError: a shard is damaged.
        ValueError: `corpus` is no encoded corpus.
    """
    with new_file(
        prefix,
        kind="megatron",
        overwrite=overwrite,
        inputs=[corpus],
        endings=(".bin", ".idx"),
        size=_merged_size(Path(corpus)),
    ) as made:
        documents, tokens = _core.merge_shards(corpus, made, progress)
    return MergedShards(Path(prefix), documents, tokens)


def _merged_size(corpus: Path) -> int | None:
    """Bytes of the merged files; `None` for an unreadable manifest (the core says what is wrong with it)."""
    try:
        manifest = json.loads((corpus / "manifest.json").read_bytes())
        tokens = sum(shard["bytes"] for shard in manifest["shards"])
        # An index holds a header, then lengths (4 bytes), offsets and bounds (8 each, one bound more).
        return int(tokens + 34 + 20 * manifest["documents"] + 8)
    except (OSError, ValueError, KeyError, TypeError):
        return None
