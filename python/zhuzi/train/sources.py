"""Where instruction data come from: files and folders, their field names and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zhuzi._show import count
from zhuzi.corpus import read
from zhuzi.corpus.options import OnError
from zhuzi.corpus.read import RecordReader
from zhuzi.errors import InputError
from zhuzi.train.conversations import Conversation, conversations_of, unread_keys


@dataclass(frozen=True)
class Source:
    """Files of instruction data that are read alike."""

    files: tuple[Path, ...]
    """Files, folders, patterns."""
    weight: float = 1
    """How often each record is in an epoch; 0.5 takes half of the records, drawn by the seed."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the records call the fields of `zhuzi.train.conversations.MAPPED`."""


def sources_of(inputs: Sequence[Path | Source]) -> list[Source]:
    """The sources; plain paths are one together."""
    paths = tuple(it for it in inputs if not isinstance(it, Source))
    return [*([Source(paths)] if paths else []), *(it for it in inputs if isinstance(it, Source))]


class SourceReader:
    """An iterator of a source's conversations with their places; counts what it does not give.

    Raises:
        InputError: an input does not exist or holds no records (here); a wrong record, with file and line,
            unless `on_error` is "skip" (during the iteration).
    """

    def __init__(self, source: Source, on_error: OnError = "stop") -> None:
        self.source, self._skips = source, on_error == "skip"
        self._reader = open_records(source.files, on_error)
        self.files = [Path(file) for file, _ in self._reader.files]
        self.unread_keys: Counter[str] = Counter()
        """Records that have a key that is not read, by key."""
        self._wrong: list[str] = []
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """Wrong records left out so far."""
        return self._skipped + self._reader.bad_records

    def __iter__(self) -> Iterator[tuple[Conversation, str]]:
        empty = True
        for found in self.conversations():
            empty = False
            yield found
        if empty and not self.skipped:
            raise no_records(self.files)

    def conversations(self) -> Iterator[tuple[Conversation, str]]:
        """As the iteration, but files without records are no error."""
        for record, place in self._reader:
            try:
                found = conversations_of(record, place, self.source.fields)
            except InputError as error:
                self.refuse(error)
                continue
            self.unread_keys.update(unread_keys(record, self.source.fields))
            for conversation in found:
                yield conversation, place

    def refuse(self, error: InputError) -> None:
        """Raise the error of a record, or count the record as wrong."""
        if not self._skips:
            raise error
        self._skipped += 1
        self._wrong += [str(error)] if len(self._wrong) < 3 else []

    def notes(self) -> list[str]:
        """What was left out, one line each."""
        notes = self._reader.notes()
        if self._skipped:
            notes.append(
                f"left out: {count(self._skipped, 'wrong record')}, such as {'; '.join(self._wrong)}"
            )
        return notes


def open_records(inputs: Path | Sequence[Path], on_error: OnError = "stop") -> RecordReader:
    """A reader of files, folders and patterns; its `notes()` tell what it left out.

    It reads JSON Lines and JSON arrays (`.jsonl`, `.ndjson`, `.json`, also compressed), Parquet and Arrow.

    Raises:
        InputError: an input does not exist, or is of a kind that has no records.
    """
    inputs = [inputs] if isinstance(inputs, Path) else inputs
    try:
        return read.read_records(inputs, on_error=on_error)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; name a file or folder of records") from None
    except ValueError as error:
        raise InputError(str(error)) from error


def no_records(files: Sequence[str | Path]) -> InputError:
    """The error of files without records."""
    named = ", ".join(map(str, files))
    return InputError(f"{named}: contains no records; want a JSON list of them, or one per line")
