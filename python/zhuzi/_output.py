"""Output folders that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zhuzi.errors import OutputExistsError


def require_free(out: Path, *, overwrite: bool) -> None:
    """Raise `OutputExistsError` if `out` already holds something and `overwrite` is not set.

    Called before the work starts, so that hours are not spent on a result with no place to go.
    """
    if overwrite or not os.path.lexists(out):
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    raise OutputExistsError(
        f"{out}: already holds something; choose another folder, or replace it with --overwrite"
    )


@contextmanager
def new_folder(out: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends well, and vanishes when it does not.

    The folder stands beside `out` (one file system, so that the rename is atomic) and its files are
    flushed to the disk before the rename. With `overwrite`, what `out` held is removed only then.
    """
    out = Path(out)
    require_free(out, overwrite=overwrite)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.absolute().parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        replace_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(made: Path, out: Path) -> None:
    """Flush every file of the folder `made` and move it to `out`, in place of whatever stood there."""
    for path in sorted(made.rglob("*")):
        if path.is_file():
            _fsync(path)
    for folder in [made, *(p for p in made.rglob("*") if p.is_dir())]:
        _fsync(folder)
    old = None
    if os.path.lexists(out):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.absolute().parent))
        out.replace(old / out.name)
    made.replace(out)
    _fsync(out.absolute().parent)
    if old is not None:
        shutil.rmtree(old)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
