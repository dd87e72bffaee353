"""JSON files: objects read with a clear error, files written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from zhuzi.errors import OutputExistsError, ZhuziError
from zhuzi.record.disk import fsync


def read_object(path: Path, error: type[ZhuziError]) -> dict[str, Any]:
    """The JSON object that a file holds; `error` if it holds none, `OSError` if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: no JSON ({reason}); fetch or make it again") from reason
    if not isinstance(value, dict):
        raise error(f"{path}: want a JSON object, not {type(value).__name__}; fetch or make it again")
    return cast(dict[str, Any], value)


def object_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; empty if it holds none or cannot be read."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Write readable JSON in UTF-8 with a newline at the end. Not flushed: for files of a new folder."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")


def replace_json(path: Path, value: object, *, temporary: Path | None = None) -> None:
    """Write JSON so that a reader finds the old file or the new one, whole.

    It is written to `temporary` first (a hidden name beside `path` by default), flushed and renamed.
    """
    temporary = temporary or path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)  # never written through, should it be a link
    write_json(temporary, value)
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def read_state(path: Path) -> dict[str, Any]:
    """The object that tells the state of an output folder.

    Raises:
        OutputExistsError: it is damaged. `--overwrite` is no way out: a folder whose mark is damaged is not
            known as Zhuzi's.
    """
    try:
        held = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        raise OutputExistsError(f"{path}: damaged; choose another output, or remove the folder yourself")
    return held
