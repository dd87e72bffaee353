"""JSON files: one way to read an object, one way to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from zhuzi.errors import ZhuziError


def read_object(path: Path, error: type[ZhuziError]) -> dict[str, Any]:
    """The JSON object that a file holds; `error` if it holds none, `OSError` if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: no JSON ({reason}); fetch or make it again") from reason
    if not isinstance(value, dict):
        raise error(f"{path}: want a JSON object, not {type(value).__name__}; fetch or make it again")
    return cast(dict[str, Any], value)


def write_json(path: Path, value: object) -> None:
    """Write readable JSON, UTF-8, one newline at the end."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
