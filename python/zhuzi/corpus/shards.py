"""What is done with the shards of an encoded corpus: check, join."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi.errors import InputError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class MergedShards:
    """What `merge_shards` wrote: `<prefix>.bin` and `<prefix>.idx`."""

    prefix: Path
    documents: int
    tokens: int


def merge_shards(
    corpus: PathLike,
    prefix: PathLike,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> MergedShards:
    """Join the shards of a corpus into one pair of Megatron files, `<prefix>.bin` and `<prefix>.idx`.

    Each shard is compared with its checksum on the way; the files appear whole or not at all.
    `progress(bytes)` is called a few times a second with the bytes of tokens written.

    Raises:
        OutputExistsError: one of the files is there and `overwrite` is not set.
        InputError: a shard is damaged.
        ValueError: `corpus` is no encoded corpus.
    """
    documents, tokens = _core.merge_shards(corpus, prefix, overwrite, progress)
    return MergedShards(Path(prefix), documents, tokens)


def verify_corpus(corpus: PathLike, *, progress: Callable[[int], object] | None = None) -> None:
    """Read every byte of a corpus and compare it with the manifest.

    Finds flipped bits, cut and missing files, shards that the manifest does not name, ids outside the
    vocabulary and totals that do not add up. `progress(bytes)` is called a few times a second with the bytes
    of tokens read.

    Raises:
        InputError: names all that is wrong, one line each.
        ValueError: `corpus` is no encoded corpus, or one that is not finished.
    """
    found = _core.verify_corpus(corpus, progress)
    if found:
        raise InputError("\n".join(found))
