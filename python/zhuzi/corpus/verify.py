"""An encoded corpus compared with its manifest."""

from __future__ import annotations

from collections.abc import Callable

from zhuzi import _core
from zhuzi.errors import InputError
from zhuzi.record.place import PathLike


def verify_corpus(corpus: PathLike, *, progress: Callable[[int], object] | None = None) -> None:
    """Read every byte of a corpus and compare it with the manifest.

    Finds flipped bits, truncated and missing files, shards that the manifest does not name, ids outside the
    vocabulary and totals that do not add up. `progress(bytes)` is called a few times per second with the
    bytes of tokens read.

    Raises:
        InputError: names all that is wrong, one line each.
        ValueError: `corpus` is no encoded corpus, or one that is not finished.
    """
    found = _core.verify_corpus(corpus, progress)
    if found:
        raise InputError("\n".join(found))
