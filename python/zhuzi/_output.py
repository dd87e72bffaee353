"""Outputs that are whole or absent: written beside their place, then renamed into it.

Nothing of the user's is lost: what stands at the place is replaced only on `overwrite`, only if Zhuzi wrote
it, and never if it holds an input of the same command.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zhuzi.errors import OutputExistsError

#: Files by which a folder shows that Zhuzi wrote it, each with a key that ours have.
MARKS = {
    "zhuzi.json": "zhuzi",  # tokenizers, models, adapters
    "run.json": "recipe",  # training runs
    "manifest.json": "tokenizer",  # corpora
    "plan.json": "config",  # corpora that are not finished
    "demo.json": "seed",
}

PathLike = str | os.PathLike[str]


def require_free(out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = ()) -> None:
    """Raise `OutputExistsError` unless the folder `out` may be written.

    It may if it is not there or empty; with `overwrite` also if Zhuzi wrote it and it holds none of `inputs`.
    Called before the work starts, so that hours are not spent on a result with no place to go.
    """
    place = _place(out)
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise OutputExistsError(f"{out}: is a file; name a folder")
    if not any(place.iterdir()):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{out}: already holds something; choose another folder, or replace it with --overwrite"
        )
    _require_ours(out, place, inputs)


def require_replaceable(out: PathLike, inputs: Sequence[PathLike]) -> None:
    """Raise `OutputExistsError` if what the folder `out` holds must not be removed (see `require_free`)."""
    place = _place(out)
    if place.is_dir() and any(place.iterdir()):
        _require_ours(out, place, inputs)


def _require_ours(out: PathLike, place: Path, inputs: Sequence[PathLike]) -> None:
    for path in inputs:
        if Path(path).resolve().is_relative_to(place):
            raise OutputExistsError(f"{out}: holds {path}, which is read here; choose another folder")
    if not any(_is_mark(place / name, key) for name, key in MARKS.items()):
        raise OutputExistsError(
            f"{out}: was not written by zhuzi, so --overwrite leaves it alone; choose another folder, or "
            "remove it yourself"
        )


def require_free_file(out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = ()) -> None:
    """Raise `OutputExistsError` unless the file `out` may be written."""
    place = _place(out)
    if any(Path(path).resolve() == place for path in inputs):
        raise OutputExistsError(f"{out}: is read here; choose another file to write")
    if place.is_dir():
        raise OutputExistsError(f"{out}: is a folder; name the file to write")
    if place.exists() and not overwrite:
        raise OutputExistsError(f"{out}: already there; choose another name, or replace it with --overwrite")


@contextmanager
def new_folder(out: PathLike, *, overwrite: bool = False, inputs: Sequence[PathLike] = ()) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends well, and vanishes when it does not.

    The folder stands beside `out` (one file system, so that the rename is atomic) and its files are flushed
    to the disk before the rename. With `overwrite`, what `out` held is removed only then. Arguments and
    errors are those of `require_free`.
    """
    require_free(out, overwrite=overwrite, inputs=inputs)
    place = _place(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(out)) from None
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        # Looked at again: something may have come there during the work.
        require_free(out, overwrite=overwrite, inputs=inputs)
        replace_folder(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(made: Path, out: Path) -> None:
    """Flush every file of the folder `made` and move it to `out`, in place of whatever stood there."""
    mode = 0o666 & ~_umask()
    for path in sorted(made.rglob("*")):
        if path.is_file():
            path.chmod(path.stat().st_mode | mode)  # safetensors writes files that only their owner can read
            _fsync(path)
    for folder in [made, *(p for p in made.rglob("*") if p.is_dir())]:
        _fsync(folder)
    old = None
    if os.path.lexists(out):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.absolute().parent))
        out.replace(old / out.name)
    try:
        made.replace(out)
    except OSError:
        if old is not None:
            (old / out.name).replace(out)
            old.rmdir()
        raise
    _fsync(out.absolute().parent)
    if old is not None:
        shutil.rmtree(old)


def _place(out: PathLike) -> Path:
    """Where `out` really is (a link to a folder elsewhere stays a link), if it is a place to write to."""
    place = Path(out).resolve()
    if not os.fspath(out):
        raise OutputExistsError("the output has an empty name; name a folder")
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() fails for users without an entry
    for held, what in ((Path.cwd(), "the current folder"), (home, "your home folder")):
        if held.resolve().is_relative_to(place):
            raise OutputExistsError(f"{out}: is or holds {what}; name a folder in it")
    return place


def _is_mark(path: Path, key: str) -> bool:
    try:
        return key in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


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
