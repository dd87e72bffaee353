"""Outputs that are whole or absent: written in a hidden folder next to their place, then renamed into it.

Every command writes its results through this module. Folders that grow in place (a corpus, a training run,
the demo) have protocols of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zhuzi.errors import OutputExistsError
from zhuzi.record.disk import fsync, naming_full_disk, new_file_mode, require_space
from zhuzi.record.marks import FileRecord, file_entries, is_marked_page
from zhuzi.record.place import PathLike, place_of, require_free, require_free_file, require_free_record


@contextmanager
def new_folder(
    out: PathLike, *, overwrite: bool = False, inputs: Sequence[PathLike] = (), size: int | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` if the block succeeds, and is removed if it fails.

    The folder is next to `out` (on the same file system, so that the rename is atomic), and its files are
    flushed to the disk before the rename. With `overwrite`, what `out` held is removed only then. `size` is
    the number of bytes the block will write, if known: with less free space it does not start.

    Raises what `require_free` raises, and for a full disk an `OSError` that says how much is needed.
    """
    require_free(out, overwrite=overwrite, inputs=inputs)
    with _partial(out, place_of(out), size) as partial:
        yield partial
        partial.chmod(new_file_mode(0o777))
        # Checked again: something may have been put there meanwhile.
        require_free(out, overwrite=overwrite, inputs=inputs)
        replace_folder(partial, place_of(out))


@contextmanager
def new_file(
    out: PathLike,
    *,
    kind: str,
    overwrite: bool = False,
    inputs: Sequence[PathLike] = (),
    endings: Sequence[str] = ("",),
    size: int | None = None,
) -> Iterator[Path]:
    """Yield a path to write to; what the block wrote there becomes `out` if it succeeds.

    With `endings` (such as `.bin` and `.idx`) the block writes one file for each. They are renamed into place
    in this order, and the last is absent until the others are in place. A record `OUT.zhuzi.json` holds the
    `kind` of the files and their SHA-256, unless they carry Zhuzi's mark themselves (HTML). `size` as in
    `new_folder`.

    Raises what `require_free_file` raises, and for a full disk an `OSError` that says how much is needed.
    """
    require_free_file(out, overwrite=overwrite, inputs=inputs, endings=endings)
    place = place_of(out)
    record = FileRecord(place)
    targets = [place.with_name(place.name + ending) for ending in endings]
    before = [_stamp(path) for path in targets]
    with _partial(out, place, size) as partial:
        yield partial / place.name
        made = [partial / path.name for path in targets]
        for path in made:
            path.chmod(path.stat().st_mode | new_file_mode(0o666))
            fsync(path)
        # Checked again: something may have been put there meanwhile.
        if [_stamp(path) for path in targets] != before:
            raise OutputExistsError(f"{out}: something came there during the work; choose another name")
        require_free_record(out, record)
        if all(is_marked_page(path) for path in made):
            _publish(made, targets)
            return
        entries = file_entries(made)
        # Killed between the first rename and the last, the process leaves old and new files side by side,
        # and all must be known as ours: until the last is in place the record names both.
        replaced = file_entries([path for path in targets if path.exists()])
        record.write(kind, entries, replaced, partial)
        _publish(made, targets)
        if replaced:
            record.write(kind, entries, {}, partial)


def _publish(made: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename files into place, so that whoever finds the last one also finds the others that belong to it."""
    for path in targets[:0:-1]:
        path.unlink(missing_ok=True)
    for path, target in zip(made, targets, strict=True):
        path.replace(target)
    fsync(targets[0].parent)


@contextmanager
def _partial(out: PathLike, place: Path, size: int | None) -> Iterator[Path]:
    """A new hidden folder next to `place`, removed when the block ends; a full disk is reported for `out`."""
    if size is not None:
        require_space(place.parent, size)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(out)) from None
    try:
        with naming_full_disk(out, wanted=size, written=partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(made: Path, out: Path) -> None:
    """Flush every file of the folder `made` and move it to `out`, in place of whatever is there."""
    mode = new_file_mode(0o666)
    for path in sorted(made.rglob("*")):
        if path.is_file():
            path.chmod(path.stat().st_mode | mode)  # safetensors writes files that only their owner can read
            fsync(path)
    for folder in [made, *(p for p in made.rglob("*") if p.is_dir())]:
        fsync(folder)
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
    fsync(out.absolute().parent)
    if old is not None:
        shutil.rmtree(old)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None if there is no file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
