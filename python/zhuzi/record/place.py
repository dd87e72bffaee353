"""Whether an output may be written to its place, so that nothing of the user's is lost.

What is there is replaced only on `overwrite`, only if Zhuzi wrote it (see `zhuzi.record.marks`), and never if
it is or contains an input of the same command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from zhuzi.errors import OVERWRITE, OutputExistsError, naming
from zhuzi.record.marks import FileRecord, foreign_name, is_marked_folder, is_marked_page

PathLike = str | os.PathLike[str]

#: Endings of files that a folder is read for (texts, shards, weights, settings): no output with one of them
#: is put into an input folder, where the next command would take it for a part of the input.
READ_ENDINGS = {
    *(".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"),
    *(".gz", ".zst", ".zstd", ".xz", ".bz2"),
    *(".bin", ".idx", ".safetensors"),
}

_LOCKS = {".lock", ".lock-plan"}


def require_free(out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = ()) -> None:
    """Raise `OutputExistsError` unless the folder `out` may be written.

    It may if it does not exist or is empty; with `overwrite` also if Zhuzi wrote it and it contains none of
    `inputs` (files, folders, patterns, `-`). Called before the work starts, so that hours are not spent on a
    result that has no place to go.
    """
    if not _is_taken(out):
        return
    _require_no_input_in(out, inputs)
    if not overwrite:
        taken = f"{out}: already holds something; choose another folder"
        if is_marked_folder(place_of(out)):
            raise naming(OutputExistsError, taken, ", or replace it with ", OVERWRITE)
        raise OutputExistsError(taken)
    _require_ours(out)


def require_replaceable(out: PathLike, inputs: Sequence[PathLike]) -> None:
    """Raise `OutputExistsError` if the contents of the folder `out` must not be removed."""
    if _is_taken(out):
        _require_no_input_in(out, inputs)
        _require_ours(out)


def require_free_file(
    out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = (), endings: Sequence[str] = ("",)
) -> None:
    """Raise `OutputExistsError` unless the file `out` may be written, or `out` with each of `endings`.

    It may if it does not exist; with `overwrite` also if Zhuzi wrote it and it is none of `inputs`. It never
    may where a folder among `inputs` would read it as one more file.
    """
    place = place_of(out)
    record = FileRecord(place)
    targets = {f"{out}{ending}": place.with_name(place.name + ending) for ending in endings}
    for name, path in targets.items():
        _require_apart(name, path, inputs)
    there = {name: path for name, path in targets.items() if os.path.lexists(path)}
    for name, path in there.items():
        if path.is_dir():
            raise OutputExistsError(f"{name}: is a folder; name the file to write")
        if not path.is_file():
            raise OutputExistsError(f"{name}: is not a regular file; name the file to write")
        if not overwrite:
            taken = f"{name}: already there; choose another name"
            if is_marked_page(path) or path.name in record.known():
                raise naming(OutputExistsError, taken, ", or replace it with ", OVERWRITE)
            raise OutputExistsError(taken)
    for name, path in there.items():
        if not (is_marked_page(path) or record.holds(path)):
            raise naming(
                OutputExistsError,
                f"{name}: was not written by zhuzi, or was changed since, so ",
                OVERWRITE,
                " leaves it alone; choose another name, or remove it yourself",
            )
    require_free_record(out, record)


def require_free_record(out: PathLike, record: FileRecord) -> None:
    """Raise `OutputExistsError` if the file where the record of `out` goes is not a record of Zhuzi's."""
    if os.path.lexists(record.path) and not record.known():
        raise OutputExistsError(
            f"{record.path}: was not written by zhuzi, and the record of {out} would replace it; choose "
            "another name"
        )


def place_of(out: PathLike) -> Path:
    """Where `out` really is, every link followed.

    Raises:
        OutputExistsError: it has an empty name, or is or contains the current or the home folder.
    """
    place = Path(out).resolve()
    if not os.fspath(out):
        raise OutputExistsError("the output has an empty name; name a folder")
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() fails for users without an entry
    for held, what in ((Path.cwd(), "the current folder"), (home, "your home folder")):
        if held.resolve().is_relative_to(place):
            raise OutputExistsError(f"{out}: is or holds {what}; name a folder in it")
    return place


def _is_taken(out: PathLike) -> bool:
    """Whether the folder `out` is not empty; raises `OutputExistsError` if it is a file."""
    place = place_of(out)
    if not os.path.lexists(place):
        return False
    if not place.is_dir():
        raise OutputExistsError(f"{out}: is a file; name a folder")
    # Encoding that failed before its plan was written leaves empty lock files.
    return any(not (path.name in _LOCKS and path.stat().st_size == 0) for path in place.iterdir())


def _require_no_input_in(out: PathLike, inputs: Sequence[PathLike]) -> None:
    place = place_of(out)
    for path in _found(inputs):
        if path.resolve().is_relative_to(place):
            raise OutputExistsError(f"{out}: holds {path}, which is read here; choose another folder")


def _require_ours(out: PathLike) -> None:
    place = place_of(out)
    if not is_marked_folder(place):
        raise naming(
            OutputExistsError,
            f"{out}: was not written by zhuzi, so ",
            OVERWRITE,
            " leaves it alone; choose another folder, or remove it yourself",
        )
    foreign = foreign_name(place)
    if foreign is not None:
        raise naming(
            OutputExistsError,
            f"{out}: holds {foreign}, which zhuzi did not write and ",
            OVERWRITE,
            " would remove; move it elsewhere, or choose another folder",
        )


def _require_apart(out: str, path: Path, inputs: Sequence[PathLike]) -> None:
    if path.exists() and any(read.exists() and read.samefile(path) for read in _found(inputs)):
        raise OutputExistsError(f"{out}: is read here; choose another file to write")
    if path.suffix.lower() not in READ_ENDINGS:
        return
    for read in map(Path, inputs):
        if read.is_dir() and path.is_relative_to(read.resolve()):
            raise OutputExistsError(
                f"{out}: is in {read}, which is read here, and would become a part of it; choose "
                "another folder"
            )


def _found(inputs: Sequence[PathLike]) -> Iterator[Path]:
    """The paths that `inputs` name; a pattern means what it matches now."""
    for given in inputs:
        text, path = os.fspath(given), Path(given)
        if text == "-":
            continue
        if any(letter in text for letter in "*?[") and not path.exists():
            anchor = Path(path.anchor or ".")
            yield from anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path))
        else:
            yield path
