"""Texts and records from the files that corpora come in, one after the other, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._show import count
from zhuzi.corpus.encode import MAX_RECORD_BYTES, Paths, encode_options, skips_bad
from zhuzi.errors import InputError


def read_texts(
    inputs: str | os.PathLike[str] | Paths,
    *,
    field: str | Sequence[str] = "text",
    split: Literal["line", "blank-line", "separator", "file"] = "line",
    separator: str | None = None,
    stdin_format: Literal["jsonl", "txt"] = "jsonl",
    on_error: Literal["stop", "skip"] = "stop",
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> TextReader:
    """The documents of `inputs`, in order; inputs and arguments are those of `encode_corpus`.

    Documents without characters are left out and counted. Memory holds a few megabytes, or one longer record.

    Raises (here, and while it is iterated over):
        InputError: names file and place of the first bad record, unless `on_error="skip"` passes over them.
        ValueError: arguments that cannot go together, a kind of file that is not read, inputs that stand for
            no file.
        OSError: a file that cannot be read.
    """
    options = encode_options(
        field=field,
        split=split,
        separator=separator,
        stdin_format=stdin_format,
        max_record_bytes=max_record_bytes,
    )
    return TextReader(_core.InputReader(one_or_more(inputs), options, skips_bad(on_error), False))


def read_records(
    inputs: str | os.PathLike[str] | Paths,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> RecordReader:
    """The records of `inputs` with their places, in order; files as for `encode_corpus`, but no `.txt`.

    A record is what a line of JSON, an element of a JSON array, or a row (a dict of its columns; dates are
    the integers they are stored as) holds. Its place reads `a.jsonl: line 3`, `a.json: record 3` or
    `a.parquet: row 3`, counted from 1. Raises as `read_texts` does.
    """
    options = encode_options(max_record_bytes=max_record_bytes)
    reader = _core.InputReader(one_or_more(inputs), options, skips_bad(on_error), True)
    for path, _, kind in reader.files():
        if kind == "txt":
            raise ValueError(
                f"{path}: plain text holds no records; give .jsonl, .ndjson, .json (each also with "
                ".gz, .zst, .xz or .bz2), .parquet or .arrow"
            )
    return RecordReader(reader, skips_bad(on_error))


class _Reader:
    """What readers of texts and of records share: what is read, how far, and what was left out."""

    def __init__(self, reader: _core.InputReader) -> None:
        self._reader = reader
        self._left_out: Mapping[str, Any] = json.loads(reader.left_out())
        self._bad = 0
        self.files: tuple[tuple[str, int], ...] = tuple(
            (os.fspath(path), size) for path, size, _ in reader.files()
        )
        """Path and bytes of each file, in order."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files as they lie on the disk; standard input counts 0."""
        return sum(size for _, size in self.files)

    @property
    def bytes_read(self) -> int:
        """Those that were read so far."""
        return self._reader.counts()[0]

    @property
    def documents(self) -> int:
        """Texts or records so far, a block (about a megabyte) ahead of what was handed out."""
        return self._reader.counts()[1] - self._bad

    @property
    def characters(self) -> int:
        """Code points of the texts so far."""
        return self._reader.counts()[2]

    @property
    def empty_documents(self) -> int:
        """Documents without characters, left out so far."""
        return self._reader.counts()[3]

    @property
    def bad_records(self) -> int:
        """Records that could not be read, and files that could not be looked at, passed over so far."""
        return self._reader.counts()[4] + self._bad

    def notes(self) -> list[str]:
        """What was left out, passed over or given twice, a line each; nothing if all was read."""
        notes = left_out_lines(self._left_out["left_out"])
        for file in self._left_out["unreadable"]:
            notes.append(f"{file['path']}: passed over ({file['reason']})")
        bad = self.bad_records - len(self._left_out["unreadable"])
        if bad:
            notes.append(f"left out: {count(bad, 'record')} that cannot be read")
        if self.empty_documents:
            notes.append(f"left out: {count(self.empty_documents, 'document')} without characters")
        return notes


class TextReader(_Reader):
    """An iterator of `str`; see `read_texts`."""

    def __init__(self, reader: _core.InputReader) -> None:
        super().__init__(reader)
        self._texts = self._all()

    def __iter__(self) -> Iterator[str]:
        return self._texts

    def __next__(self) -> str:
        return next(self._texts)

    def _all(self) -> Iterator[str]:
        while (texts := self._reader.next_texts()) is not None:
            yield from texts


class RecordReader(_Reader):
    """An iterator of records, each with its place; see `read_records`."""

    def __init__(self, reader: _core.InputReader, skip_bad: bool) -> None:
        super().__init__(reader)
        self._skip_bad = skip_bad
        self._records = self._all()

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return self._records

    def __next__(self) -> tuple[Any, str]:
        return next(self._records)

    def _all(self) -> Iterator[tuple[Any, str]]:
        while (found := self._reader.next_records()) is not None:
            path, unit, records = found
            for text, number in records:
                place = f"{path}: {unit} {number}"
                try:
                    record = _DECODER.decode(text)
                except (ValueError, RecursionError) as error:
                    if not self._skip_bad:
                        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                        raise InputError(f"{place}: no JSON that Python reads ({reason})") from None
                    self._bad += 1
                    continue
                yield record, place


def _integer(digits: str) -> int | float:
    # Python refuses to read integers of more than 4,300 digits; what is so long is no count of anything.
    try:
        return int(digits)
    except ValueError:
        return float(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


_PLURALS = {"folder": "folders", "pipe or device": "pipes or devices"}


def left_out_lines(left_out: Mapping[str, Any]) -> list[str]:
    """What folders and patterns hold and was not read, a line each."""
    lines = []
    kinds = sorted(left_out["other_kinds"].items(), key=lambda kind: -kind[1])
    if kinds:
        named = ", ".join(
            count(number, kind, _PLURALS[kind]) if kind in _PLURALS else f"{number:,} {kind}"
            for kind, number in kinds
        )
        lines.append(f"left out: {named} (kinds of file that are not read)")
    if left_out["hidden"]:
        what = count(left_out["hidden"], "hidden file or folder", "hidden files or folders")
        lines.append(f"left out: {what}")
    if left_out["repeated"]:
        lines.append(f"read once: {count(left_out['repeated'], 'file')} given again")
    if left_out["records_of_tools"]:
        lines.append(
            f"left out: {count(left_out['records_of_tools'], 'file')} describing a dataset or corpus"
        )
    return lines
