"""Texts and records from the files that corpora come in, one after the other, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._show import count
from zhuzi.corpus.options import (
    MAX_RECORD_BYTES,
    CorpusOptions,
    OnError,
    ReadKeywords,
    options_of,
    skips_bad,
)
from zhuzi.errors import InputError
from zhuzi.record.place import PathLike


def read_texts(
    inputs: PathLike | Sequence[PathLike],
    *,
    on_error: OnError = "stop",
    **keywords: Unpack[ReadKeywords],
) -> TextReader:
    """The documents of `inputs`, in order; inputs and arguments are those of `encode_corpus`.

    Of its options it takes `field`, `split`, `separator`, `stdin_format` and `max_record_bytes`. Documents
    without characters are left out and counted. Memory holds a few megabytes, or one longer record.

    Raises (here, and during the iteration):
        InputError: names file and place of the first bad record, unless `on_error="skip"` leaves it out.
        ValueError: arguments that cannot go together, a kind of file that is not read, inputs without any
            file.
        OSError: a file that cannot be read.
    """
    options = options_of(read_texts, keywords, known=ReadKeywords.__optional_keys__)
    return TextReader(_core.InputReader(one_or_more(inputs), options, skips_bad(on_error), whole=False))


def read_records(
    inputs: PathLike | Sequence[PathLike],
    *,
    on_error: OnError = "stop",
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> RecordReader:
    """The records of `inputs` with their places, in order; files as for `encode_corpus`, but no `.txt`.

    A record is one line of JSON, one element of a JSON array, or one row (a dict of its columns; dates are
    the integers they are stored as). Its place reads `a.jsonl: line 3`, `a.json: record 3` or
    `a.parquet: row 3`, counted from 1. Raises as `read_texts` does.
    """
    options = CorpusOptions(max_record_bytes=max_record_bytes)
    reader = _core.InputReader(one_or_more(inputs), options, skips_bad(on_error), whole=True)
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
        self._bad = 0
        self.files: tuple[tuple[str, int], ...] = tuple(
            (os.fspath(path), size) for path, size, _ in reader.files()
        )
        """Path and bytes of each file, in order."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files as stored on the disk; standard input counts 0."""
        return sum(size for _, size in self.files)

    @property
    def bytes_read(self) -> int:
        """Bytes of the files read so far."""
        return self._reader.counts()["bytes"]

    @property
    def documents(self) -> int:
        """Texts or records so far, up to a block (about a megabyte) more than the iteration has given."""
        return self._reader.counts()["documents"] - self._bad

    @property
    def characters(self) -> int:
        """Code points of the texts so far."""
        return self._reader.counts()["characters"]

    @property
    def empty_documents(self) -> int:
        """Documents without characters, left out so far."""
        return self._reader.counts()["empty_documents"]

    @property
    def bad_records(self) -> int:
        """Records, and files of folders and patterns, that could not be read and were left out so far."""
        return self._reader.counts()["bad_records"] + self._bad

    def notes(self) -> list[str]:
        """What was left out or given twice, one line each; nothing if all was read."""
        notes = left_out_lines(**self._reader.left_out())
        unreadable = self._reader.unreadable()
        notes += [f"{path}: passed over ({reason})" for path, reason in unreadable]
        bad = self.bad_records - len(unreadable)
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

    def blocks(self) -> Iterator[list[str]]:
        """The texts in lists of about a megabyte, instead of one by one."""
        while (texts := self._reader.next_texts()) is not None:
            yield texts

    def _all(self) -> Iterator[str]:
        for texts in self.blocks():
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
    # Python refuses integers of more than 4,300 digits; none so long counts anything.
    try:
        return int(digits)
    except ValueError:
        return float(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


_PLURALS = {"folder": "folders", "pipe or device": "pipes or devices"}


def left_out_lines(
    other_kinds: Mapping[str, int], hidden: int, repeated: int, records_of_tools: int
) -> list[str]:
    """What folders and patterns hold and was not read, one line each."""
    lines = []
    kinds = sorted(other_kinds.items(), key=lambda kind: -kind[1])
    if kinds:
        named = ", ".join(
            count(number, kind, _PLURALS[kind]) if kind in _PLURALS else f"{number:,} {kind}"
            for kind, number in kinds
        )
        lines.append(f"left out: {named} (kinds of file that are not read)")
    if hidden:
        lines.append(f"left out: {count(hidden, 'hidden file or folder', 'hidden files or folders')}")
    if repeated:
        lines.append(f"read once: {count(repeated, 'file')} given again")
    if records_of_tools:
        lines.append(f"left out: {count(records_of_tools, 'file')} describing a dataset or corpus")
    return lines
