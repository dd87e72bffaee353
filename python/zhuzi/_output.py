"""Outputs that are whole or absent: written beside their place, then renamed into it.

Nothing of the user's is lost: what stands at the place is replaced only on `overwrite`, only if Zhuzi wrote
it, and never if it is or holds an input of the same command. Every command writes through this module.

What Zhuzi wrote carries a mark: a folder one of the `MARKS`, an HTML file its generator, any other
file a record beside it (`F.zhuzi.json`) with its size and SHA-256. A file that has none,
or was changed since, is somebody else's.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from zhuzi._core import __version__
from zhuzi._disk import fsync, naming_full_disk, new_file_mode, require_space, sha256
from zhuzi.errors import OutputExistsError

#: Files by which a folder shows that Zhuzi wrote it, each with keys that ours have.
MARKS = {
    "zhuzi.json": {"zhuzi"},  # tokenizers, models, adapters, exports
    "run.json": {"format", "recipe", "model", "tokenizer", "data"},  # training runs
    "manifest.json": {"format", "tokenizer", "shards"},  # corpora
    "plan.json": {"format", "config", "sources", "tasks"},  # corpora that are not finished
    "demo.json": {"seed"},
}

_LOCKS = {".lock", ".lock-plan"}

#: Names that stand in folders of ours. With any other a user has put something there.
_NAMES = (
    # Tokenizers, models, adapters
    *("tokenizer.model", "added_tokens.json", "tokenizer_config.json", "tokenizer.json", "zhuzi.json"),
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "chat_template.jinja", "special_tokens_map.json"),
    # Corpora and their exports
    *("manifest.json", "plan.json", "run.json", "rejects.jsonl", "shard-*", ".commits", ".lock*", ".tmp-*"),
    *("*.arrow", "*.ds", "*.ds.index", "state.json", "dataset_info.json"),
    # Training runs
    *("checkpoints", "model", "adapter", "log.jsonl", "report.json", "*.tmp"),
    # The demo
    *("data", "donor.model*", "base-tokenizer", "tokenizer", "corpus", "base", "extended", "recipes"),
    *("stage1", "stage2", "sft", "chinese-llama", "chinese-alpaca", "report.html", "demo.json"),
    *(".*.partial", ".*.old", ".demo.json"),
)

#: Ending of the record beside a file that cannot carry a mark itself.
RECORD = ".zhuzi.json"

#: The mark of an HTML file; stands in its first lines.
HTML_MARK = f'<meta name="generator" content="zhuzi {__version__}">'

#: Endings of files that a folder is read for (texts, shards, weights, settings): no output with one of them
#: is put into an input folder, where the next command would take it for a part of the input.
READ_ENDINGS = {
    *(".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"),
    *(".gz", ".zst", ".zstd", ".xz", ".bz2"),
    *(".bin", ".idx", ".safetensors"),
}

PathLike = str | os.PathLike[str]

__all__ = [
    "HTML_MARK",
    "MARKS",
    "RECORD",
    "PathLike",
    "mark_folder",
    "naming_full_disk",
    "new_file",
    "new_file_mode",
    "new_folder",
    "read_state",
    "replace_folder",
    "require_free",
    "require_free_file",
    "require_replaceable",
    "require_space",
    "write_state",
]


def require_free(out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = ()) -> None:
    """Raise `OutputExistsError` unless the folder `out` may be written.

    It may if it is not there or empty; with `overwrite` also if Zhuzi wrote it and it holds none of `inputs`
    (files, folders, patterns, `-`). Called before the work starts, so that hours are not spent on a result
    with no place to go.
    """
    if not _is_taken(out):
        return
    _require_no_input_in(out, _place(out), inputs)
    if not overwrite:
        mend = "choose another folder"
        if _is_ours(_place(out)):
            mend += ", or replace it with --overwrite"
        raise OutputExistsError(f"{out}: already holds something; {mend}")
    _require_ours(out, _place(out))


def require_replaceable(out: PathLike, inputs: Sequence[PathLike]) -> None:
    """Raise `OutputExistsError` if what the folder `out` holds must not be removed (see `require_free`)."""
    if _is_taken(out):
        _require_no_input_in(out, _place(out), inputs)
        _require_ours(out, _place(out))


def _is_taken(out: PathLike) -> bool:
    """Whether the folder `out` holds something; raises `OutputExistsError` where no folder can be."""
    place = _place(out)
    if not os.path.lexists(place):
        return False
    if not place.is_dir():
        raise OutputExistsError(f"{out}: is a file; name a folder")
    # An encoding that failed before its plan leaves its empty locks.
    return any(not (path.name in _LOCKS and path.stat().st_size == 0) for path in place.iterdir())


def _require_no_input_in(out: PathLike, place: Path, inputs: Sequence[PathLike]) -> None:
    for path in _found(inputs):
        if path.resolve().is_relative_to(place):
            raise OutputExistsError(f"{out}: holds {path}, which is read here; choose another folder")


def _is_ours(place: Path) -> bool:
    return any(keys <= _object(place / name).keys() for name, keys in MARKS.items())


def _require_ours(out: PathLike, place: Path) -> None:
    if not _is_ours(place):
        raise OutputExistsError(
            f"{out}: was not written by zhuzi, so --overwrite leaves it alone; choose another folder, or "
            "remove it yourself"
        )
    for path in sorted(place.iterdir()):
        if not any(fnmatchcase(path.name, name) for name in _NAMES):
            raise OutputExistsError(
                f"{out}: holds {path.name}, which zhuzi did not write and --overwrite would remove; move it "
                "elsewhere, or choose another folder"
            )


def require_free_file(
    out: PathLike, *, overwrite: bool, inputs: Sequence[PathLike] = (), endings: Sequence[str] = ("",)
) -> None:
    """Raise `OutputExistsError` unless the file `out` may be written, or `out` with each of `endings`.

    It may if it is not there; with `overwrite` also if Zhuzi wrote it and it is none of `inputs`. It never
    may if it stood in a folder among `inputs` as one more file to read.
    """
    place = _place(out)
    for ending in endings:
        _require_apart(f"{out}{ending}", place.with_name(place.name + ending), inputs)
    there = [ending for ending in endings if os.path.lexists(place.with_name(place.name + ending))]
    for ending in there:
        path = place.with_name(place.name + ending)
        if path.is_dir():
            raise OutputExistsError(f"{out}{ending}: is a folder; name the file to write")
        if not path.is_file():
            raise OutputExistsError(f"{out}{ending}: is no regular file; name the file to write")
        if not overwrite:
            mend = "choose another name"
            if _is_marked(path) or path.name in _recorded(_record(place)):
                mend += ", or replace it with --overwrite"
            raise OutputExistsError(f"{out}{ending}: already there; {mend}")
    for ending in there:
        path = place.with_name(place.name + ending)
        if not (_is_marked(path) or _is_recorded(path, _record(place))):
            raise OutputExistsError(
                f"{out}{ending}: was not written by zhuzi, or was changed since, so --overwrite leaves it "
                "alone; choose another name, or remove it yourself"
            )
    _require_free_record(out, _record(place))


def _require_apart(out: str, path: Path, inputs: Sequence[PathLike]) -> None:
    if path.exists() and any(read.exists() and read.samefile(path) for read in _found(inputs)):
        raise OutputExistsError(f"{out}: is read here; choose another file to write")
    if path.suffix.lower() not in READ_ENDINGS:
        return
    for read in map(Path, inputs):
        if read.is_dir() and path.is_relative_to(read.resolve()):
            raise OutputExistsError(
                f"{out}: lies in {read}, which is read here, and would become a part of it; choose another "
                "folder"
            )


@contextmanager
def new_folder(
    out: PathLike, *, overwrite: bool = False, inputs: Sequence[PathLike] = (), size: int | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends well, and vanishes when it does not.

    The folder stands beside `out` (one file system, so that the rename is atomic) and its files are flushed
    to the disk before the rename. With `overwrite`, what `out` held is removed only then. `size` is how many
    bytes the block will write, if that is known: less free space is an error before it starts.

    Raises what `require_free` raises, and `OSError` with path, bytes and mend for a full disk.
    """
    require_free(out, overwrite=overwrite, inputs=inputs)
    with _partial(out, _place(out), size) as partial:
        yield partial
        partial.chmod(new_file_mode(0o777))
        # Looked at again: something may have come there during the work.
        require_free(out, overwrite=overwrite, inputs=inputs)
        replace_folder(partial, _place(out))


def mark_folder(folder: Path, kind: str, **facts: object) -> None:
    """Write `zhuzi.json`, by which a folder is known as ours; `facts` say what it was made from."""
    record = {"format": 1, "kind": kind, "zhuzi": __version__, **facts}
    (folder / "zhuzi.json").write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", "utf-8")


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
    """Yield a path to write to; what the block wrote there becomes `out` when it ends well.

    With `endings` (such as `.bin` and `.idx`) the block writes one file for each, and they are published in
    this order: while they change, the last is absent. A record `OUT.zhuzi.json` says what `kind` of files
    Zhuzi wrote and their SHA-256, unless they carry its mark themselves (HTML). `size` as in
    `new_folder`.

    Raises what `require_free_file` raises, and `OSError` with path, bytes and mend for a full disk.
    """
    require_free_file(out, overwrite=overwrite, inputs=inputs, endings=endings)
    place = _place(out)
    record = _record(place)
    targets = [place.with_name(place.name + ending) for ending in endings]
    before = [_stamp(path) for path in targets]
    with _partial(out, place, size) as partial:
        yield partial / place.name
        made = [partial / path.name for path in targets]
        for path in made:
            path.chmod(path.stat().st_mode | new_file_mode(0o666))
            fsync(path)
        # Looked at again: something may have come there during the work.
        if [_stamp(path) for path in targets] != before:
            raise OutputExistsError(f"{out}: something came there during the work; choose another name")
        _require_free_record(out, record)
        if all(_is_marked(path) for path in made):
            _publish(made, targets)
            return
        facts = {"format": 1, "kind": kind, "zhuzi": __version__, "files": dict(map(_entry, made))}
        # From the first rename to the last, old and new files must both be known as ours, whenever the
        # process is killed: until all are in place the record names both.
        replaced = dict(_entry(path) for path in targets if path.exists())
        _write_record(partial, record, {**facts, "replaces": replaced} if replaced else facts)
        _publish(made, targets)
        if replaced:
            _write_record(partial, record, facts)


def _publish(made: Sequence[Path], targets: Sequence[Path]) -> None:
    """Rename files into place. Of several, whoever finds the last finds the others that belong to it."""
    for path in targets[:0:-1]:
        path.unlink(missing_ok=True)
    for path, target in zip(made, targets, strict=True):
        path.replace(target)
    fsync(targets[0].parent)


@contextmanager
def _partial(out: PathLike, place: Path, size: int | None) -> Iterator[Path]:
    """A new hidden folder beside `place`, gone when the block ends; a full disk is named."""
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
    """Flush every file of the folder `made` and move it to `out`, in place of whatever stood there."""
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


def write_state(path: Path, facts: Mapping[str, object]) -> None:
    """Write what is known of a folder that grows in place; a reader finds the old object or the new one."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)  # never written through, should it be a link
    temporary.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")
    fsync(temporary)
    temporary.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote; raises `OutputExistsError` if it is damaged."""
    try:
        held = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        # --overwrite is no way out: what has lost its mark is not known as ours.
        raise OutputExistsError(f"{path}: damaged; choose another output, or remove the folder yourself")
    return held


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


def _found(inputs: Sequence[PathLike]) -> Iterator[Path]:
    """The paths that `inputs` name; of a pattern those that it matches now."""
    for given in inputs:
        text, path = os.fspath(given), Path(given)
        if text == "-":
            continue
        if any(letter in text for letter in "*?[") and not path.exists():
            anchor = Path(path.anchor or ".")
            yield from anchor.glob(str(path.relative_to(path.anchor) if path.anchor else path))
        else:
            yield path


def _is_marked(path: Path) -> bool:
    """Whether a file says itself that Zhuzi wrote it, as a page of HTML can."""
    if path.suffix.lower() not in {".html", ".htm"}:
        return False
    with path.open("rb") as file:
        return HTML_MARK.rpartition(" ")[0].encode() in file.read(4096)


def _record(place: Path) -> Path:
    return place.with_name(place.name + RECORD)


def _recorded(record: Path) -> dict[str, list[dict[str, object]]]:
    """Size and SHA-256 that each file of a record may have; empty if it is no record of ours."""
    held = _object(record)
    if not {"format", "kind", "zhuzi", "files"} <= held.keys():
        return {}
    known: dict[str, list[dict[str, object]]] = {}
    for files in (held["files"], held.get("replaces")):
        for name, entry in files.items() if isinstance(files, dict) else ():
            if isinstance(entry, dict):
                known.setdefault(name, []).append(entry)
    return known


def _is_recorded(path: Path, record: Path) -> bool:
    size = path.stat().st_size
    digests = [
        entry.get("sha256") for entry in _recorded(record).get(path.name, []) if entry.get("bytes") == size
    ]
    return bool(digests) and sha256(path) in digests


def _require_free_record(out: PathLike, record: Path) -> None:
    if os.path.lexists(record) and not _recorded(record):
        raise OutputExistsError(
            f"{record}: was not written by zhuzi, and the record of {out} would replace it; choose another "
            "name"
        )


def _entry(path: Path) -> tuple[str, dict[str, object]]:
    return path.name, {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_record(partial: Path, record: Path, facts: dict[str, object]) -> None:
    made = partial / record.name
    made.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")
    fsync(made)
    made.replace(record)
    fsync(record.parent)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; none if it is not there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _object(path: Path) -> dict[str, object]:
    """The JSON object that a file holds, an empty one if it holds none."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}
