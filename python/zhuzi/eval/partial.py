"""Results so far, beside the file that they will be: a measurement that was ended resumes where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from zhuzi.errors import OutputExistsError
from zhuzi.record.disk import fsync, naming_full_disk
from zhuzi.record.place import PathLike

_BEGINNING = b'{"zhuzi": "partial results"'


class PartialResults:
    """Values by key, one line of JSON each in `OUT.partial`; nothing is written without `out`.

    The first line says what is measured (`facts`: fingerprints and options). A file that says something else
    is begun anew; one that says nothing of the kind is not ours, and stays.

    Raises:
        OutputExistsError: `OUT.partial` is not a file of this kind.
    """

    def __init__(self, out: PathLike | None, facts: dict[str, Any]) -> None:
        self.path = None if out is None else Path(f"{os.fspath(out)}.partial")
        self._facts = json.loads(json.dumps(facts))
        self._held = self._read()
        self.resumed = len(self._held)
        """Values that an earlier run found."""
        if self.path is not None and not self._held:
            self._write("w", {"zhuzi": "partial results", "facts": self._facts})

    def get(self, key: str) -> Any:
        """The value of a key, none if it is still to be found."""
        return self._held.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._held[key] = value
        if self.path is not None:
            self._write("a", {"key": key, "value": value})

    def remove(self) -> None:
        """The results are written: the file is no longer needed."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, mode: str, line: dict[str, Any]) -> None:
        assert self.path is not None
        with naming_full_disk(self.path):
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            fsync(self.path)

    def _read(self) -> dict[str, Any]:
        """What an earlier run of the same measurement found; a last line that is cut off is removed."""
        if self.path is None or not self.path.exists():
            return {}
        head, *lines = self.path.read_bytes().split(b"\n")
        if not lines and _BEGINNING.startswith(head[: len(_BEGINNING)]):
            return {}  # a full disk or a kill cut the first line off
        first = _object(head)
        if first.get("zhuzi") != "partial results":
            raise OutputExistsError(
                f"{self.path}: not partial results of Zhuzi's; move it, or choose another output"
            )
        if first.get("facts") != self._facts:
            return {}
        held, size = {}, len(head) + 1
        for line in lines[:-1]:
            entry = _object(line)
            if "key" not in entry:
                break
            held[str(entry["key"])] = entry.get("value")
            size += len(line) + 1
        os.truncate(self.path, size)
        return held


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
