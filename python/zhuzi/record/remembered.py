"""Digests of large files, kept in the user's cache: 13 GB are hashed once, not at every start.

A digest is known by path, device, inode, size and times of change (nanoseconds) of its files: that of the
content, which tools such as rsync set back, and that of the inode, which nobody can set. Files that were
changed seconds ago are hashed again: a second change might not show in the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from zhuzi.record.disk import sha256

#: Bytes of files whose digest is kept; smaller ones are hashed in a moment.
LARGE = 256 << 20

#: Path, device, inode, size, and the times of change of content and inode.
_Identity = tuple[str, int, int, int, int, int]

#: Seconds for which a changed file is not trusted to stay.
SETTLED = 5.0


def remembered(files: Iterable[Path], compute: Callable[[], str], *, kind: str = "") -> str:
    """The sha256 (hex) that `compute` finds in the files, or found before if none has changed since.

    `kind` tells digests apart that are computed from the same files in other ways.
    """
    before = _identities(files := sorted(files))
    place = _place(before, kind)
    if place is None or sum(entry[3] for entry in before) < LARGE:
        return compute()
    known = _kept(place, before)
    if known is not None:
        return known
    digest = compute()
    if _is_settled(before) and _identities(files) == before:
        with suppress(OSError):  # without a cache it is only slower
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.{os.getpid()}")
            temporary.write_text(digest, "ascii")
            temporary.replace(place)
    return digest


def remembered_sha256(file: Path) -> str:
    """SHA-256 (hex) of a file; a large one is read once."""
    return remembered([file], lambda: sha256(file), kind="file")


def recalled(files: Iterable[Path], *, kind: str = "") -> str | None:
    """The digest that `remembered` would return without reading the files; None if it would read them."""
    found = _identities(sorted(files))
    place = _place(found, kind)
    return None if place is None else _kept(place, found)


def _place(identities: list[_Identity], kind: str) -> Path | None:
    """The file that keeps the digest; None if there is no cache."""
    folder = _folder()
    name = hashlib.sha256((json.dumps(identities) + kind).encode()).hexdigest()
    return None if folder is None else folder / name


def _kept(place: Path, identities: list[_Identity]) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        known = place.read_text("ascii")
        if re.fullmatch(r"[0-9a-f]{64}", known) and _is_settled(identities):
            return known
    return None


def _identities(files: Iterable[Path]) -> list[_Identity]:
    found = []
    for file in files:
        path = file.resolve()
        stat = path.stat()
        found.append((str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return found


def _is_settled(identities: Iterable[_Identity]) -> bool:
    return all(time.time() - entry[4] / 1e9 > SETTLED for entry in identities)


def _folder() -> Path | None:
    """Where digests are kept; nowhere for a user without a home, as in containers."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "zhuzi" / "fingerprints"
    except RuntimeError:
        return None
