"""Texts of files, until the reader of `zhuzi.corpus` gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from zhuzi._output import PathLike
from zhuzi.errors import InputError


class TextReader:
    """Iterates over the texts."""

    bytes_read = total_bytes = empty_documents = bad_records = 0

    def __init__(self, inputs: Sequence[PathLike], field: str) -> None:
        self.inputs, self.field = inputs, field

    def notes(self) -> list[str]:
        """What was left out."""
        return []

    def __iter__(self) -> Iterator[str]:
        return read_documents(self.inputs, field=self.field)


def read_texts(inputs: Sequence[PathLike], *, field: str | Sequence[str] = "text", **_: object) -> TextReader:
    """The texts of `inputs`."""
    return TextReader(inputs, field if isinstance(field, str) else field[0])


def read_documents(inputs: Sequence[PathLike], *, field: str = "text") -> Iterator[str]:
    """Texts of txt (a document a line) and jsonl (a JSON object a line) files, in order, empty ones too.

    Raises `InputError` naming file and line of a record that cannot be read.
    """
    for path in map(Path, inputs):
        if path.suffix not in {".txt", ".jsonl"}:
            raise InputError(f"{path}: not a kind of file we read; .jsonl and .txt are")
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                line = raw.removesuffix(b"\n").removesuffix(b"\r")
                try:
                    yield _document(line.decode("utf-8"), path.suffix, field)
                except UnicodeError as error:
                    reason = f"not UTF-8 ({error.reason} at character {error.start})"  # type: ignore[attr-defined]
                    raise InputError(f"{path}: line {number}: {reason}; convert the file") from None
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}: line {number}: no JSON object with a text ({error})") from None


def _document(line: str, suffix: str, field: str) -> str:
    if suffix == ".txt" or not line.strip():
        return line
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise ValueError(f"no JSON object with a text in `{field}`; name the right field with --field")
    text: str = record[field]
    text.encode("utf-8")  # JSON can spell half a character (a lone surrogate), which is no text
    return text
