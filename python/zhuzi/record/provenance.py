"""`zhuzi.json`: what a tokenizer, model, adapter or exported corpus was made from.

`format` is 1, `kind` says what is in the folder, `zhuzi` which version wrote it; the other keys depend on the
kind. By this file a folder is known to be Zhuzi's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhuzi._core import __version__
from zhuzi.errors import InputError
from zhuzi.record.json_file import read_object, write_json

#: Name of the record in its folder.
RECORD = "zhuzi.json"

#: The kind of an adapter whose files were converted: it says nothing of the base it was trained on.
CONVERTED_ADAPTER = "converted adapter"

_MOVED = "moved_tokens"

#: Token -> its id in the base, and its id here.
Moves = Mapping[str, tuple[int, int]]


def write_record(folder: Path, kind: str, *, moved: Moves | None = None, **facts: object) -> None:
    """Write the record of a folder: what it was made from, and which tokens `moved` to other ids."""
    if moved:
        facts[_MOVED] = {token: {"from": before, "to": after} for token, (before, after) in moved.items()}
    write_json(folder / RECORD, stamped(kind, facts))


def stamped(kind: str, facts: Mapping[str, object]) -> dict[str, object]:
    """The keys that every record begins with, and the facts."""
    return {"format": 1, "kind": kind, "zhuzi": __version__, **facts}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, None if it has none; `InputError` if it is damaged."""
    path = folder / RECORD
    return read_object(path, InputError) if path.is_file() else None


def read_moves(folder: Path) -> dict[str, tuple[int, int]]:
    """Tokens whose ids differ from the base's, by the folder's record; `InputError` if it is damaged."""
    table: Any = (read_record(folder) or {}).get(_MOVED, {})
    try:
        return {str(token): (int(ids["from"]), int(ids["to"])) for token, ids in table.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{folder / RECORD}: {_MOVED} is not a table of token to its ids; make the tokenizer again"
        ) from None


def kept_template(*records: Mapping[str, Any] | None) -> dict[str, Any]:
    """The chat template of the first record that has one, as a fact for the record of what is made."""
    return next(({"template": held["template"]} for held in records if held and held.get("template")), {})
