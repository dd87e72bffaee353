"""The disk: flushing, checksums, free space, and one error for a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: How libraries word a write that the system refused; safetensors and torch do not raise `OSError`.
_WORDED = [
    (re.compile(r"no space left|os error 28\b", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"quota exceeded|os error 122\b", re.IGNORECASE), errno.EDQUOT),
    (re.compile(r"file too large|os error 27\b", re.IGNORECASE), errno.EFBIG),
]
# torch's zip writer says only that fewer bytes arrived than it wrote.
_CUT_SHORT = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+")


class FullDiskError(OSError):
    """A write refused by the disk, a quota or a limit; the message says how many bytes and what to do."""


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the user may still write to the disk of `path`, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(path: str | os.PathLike[str], size: int) -> None:
    """Raise `OSError` (ENOSPC) unless the disk of `path`, which need not exist yet, has `size` bytes free."""
    free = free_bytes(path)
    if free < size:
        raise FullDiskError(
            errno.ENOSPC,
            f"needs {size:,} bytes, and {free:,} are free on its disk; free some, or choose another disk",
            os.fspath(path),
        )


@contextmanager
def naming_full_disk(
    path: str | os.PathLike[str], *, wanted: int | None = None, written: Path | None = None
) -> Iterator[None]:
    """Turn a full disk in the block, however a library words it, into one `OSError`.

    It names `path`, the bytes `wanted` (or else those in the folder `written` so far), the bytes that are
    free, and what to do. Other errors pass through.
    """
    try:
        yield
    except Exception as error:
        code = full_disk_code(error)
        # Blocks may be nested: the inner one knows more.
        if code is None or isinstance(error, FullDiskError):
            raise
        raise FullDiskError(code, _explained(path, code, wanted, written), os.fspath(path)) from error


def full_disk_code(error: BaseException) -> int | None:
    """ENOSPC, EDQUOT or EFBIG if that is why a write failed, else None."""
    if isinstance(error, OSError):
        return error.errno if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None
    if type(error).__name__ not in {"SafetensorError", "RuntimeError"}:
        return None
    if _CUT_SHORT.search(str(error)):
        limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        return errno.EFBIG if limited else errno.ENOSPC
    return next((code for worded, code in _WORDED if worded.search(str(error))), None)


def _explained(path: str | os.PathLike[str], code: int, wanted: int | None, written: Path | None) -> str:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if code == errno.EFBIG:
        most = "" if limit == resource.RLIM_INFINITY else f" of {limit:,} bytes (ulimit -f)"
        return f"a file would be larger than the limit{most}; raise it, or choose another disk"
    if wanted is not None:
        much = f" for {wanted:,} bytes"
    elif written is not None:
        files = (file.stat().st_size for file in written.rglob("*") if file.is_file())
        much = f" after {sum(files):,} bytes"
    else:
        much = ""
    if code == errno.EDQUOT:
        return f"your quota is used up{much}; free some space, or choose another disk"
    return f"no space left{much}, {free_bytes(path):,} are free; free some, or choose another disk"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_files(paths: Iterable[Path], digest: Callable[[Path], str] = sha256) -> str:
    """SHA-256 (hex) over the digests of several files, in order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest(path)) for path in paths)).hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or folder to the disk itself."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def new_file_mode(mode: int) -> int:
    """`mode` as the process's umask leaves it: the permissions of a new file or folder."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask
