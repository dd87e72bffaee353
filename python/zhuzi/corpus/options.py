"""The options that decide the bytes of a corpus: how files are read, what is kept, how it is stored."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from zhuzi import _core
from zhuzi.errors import naming

#: Input bytes (unpacked) after which a shard ends: 20 GB become some forty shards.
SHARD_BYTES = 512 << 20

#: A longer record cannot be read.
MAX_RECORD_BYTES = 64 << 20

Split = Literal["line", "blank-line", "separator", "file"]
StdinFormat = Literal["jsonl", "txt"]
OnError = Literal["stop", "skip"]

#: The smallest value of each option that is a whole number.
_LEAST = {"min_chars": 0, "max_chars": 0, "limit": 0, "max_record_bytes": 1, "shard_bytes": 1}


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """All options that decide the bytes of a corpus; with inputs, tokenizer and version, nothing else does.

    What is done to a text comes first, then documents are judged in the order of the fields.

    Raises:
        ValueError: a value outside its range, or options that cannot go together.
        TypeError: a value of another type.
    """

    field: str | Sequence[str] = "text"
    """The field of JSON or the column that holds the text, or a path to it (`content.text`, also through
    lists). The texts of several fields, and of a list, are joined by newlines."""
    split: Split = "line"
    """What one document of a `.txt` file is."""
    separator: str | None = None
    """With `split="separator"`: the string between two documents."""
    stdin_format: StdinFormat = "jsonl"
    """How standard input is read."""
    bos: bool = False
    """Put the begin-of-sequence id before each document."""
    eos: bool = True
    """Put the end-of-sequence id after each document."""
    fold_fullwidth: bool = False
    """Make full-width letters and digits ASCII."""
    clean: bool = False
    """Remove control characters and superfluous white space."""
    min_chars: int | None = None
    """Keep documents of at least this many code points."""
    max_chars: int | None = None
    """Keep documents of at most this many code points."""
    min_han: float | None = None
    """Keep documents with at least this share (0 to 1) of Han among the characters other than white space."""
    sample: float | None = None
    """Keep this share (0 to 1) of the documents; a hash of each document decides."""
    dedup: bool = False
    """Keep the first of equal documents; takes 20 to 60 bytes of memory per document kept."""
    limit: int | None = None
    """Keep only the first documents, at most this many."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """A longer record cannot be read."""
    shard_bytes: int = SHARD_BYTES
    """Unpacked input bytes after which a shard ends."""

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            object.__setattr__(self, "field", tuple(self.field))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None:
                continue
            try:
                fits = least <= value < 1 << 64
            except TypeError:
                raise TypeError(f"{name} must be a whole number, not {value!r}") from None
            if not fits:
                raise naming(
                    ValueError, (name, None), f" must be at least {least} and below 2**64, not {value}"
                )
        _core.check_options(self)


class ReadKeywords(TypedDict, total=False):
    """Those of `CorpusOptions` that say how files are read, as keywords."""

    field: str | Sequence[str]
    split: Split
    separator: str | None
    stdin_format: StdinFormat
    max_record_bytes: int


class CorpusKeywords(ReadKeywords, total=False):
    """The fields of `CorpusOptions` as keywords. A test holds their names and types equal."""

    bos: bool
    eos: bool
    fold_fullwidth: bool
    clean: bool
    min_chars: int | None
    max_chars: int | None
    min_han: float | None
    sample: float | None
    dedup: bool
    limit: int | None
    shard_bytes: int


def options_of(
    function: Callable[..., object],
    keywords: CorpusKeywords | ReadKeywords,
    options: CorpusOptions | None = None,
    *,
    known: frozenset[str] = CorpusKeywords.__optional_keys__,
) -> CorpusOptions:
    """The options that the caller of `function` gave, as one object or as keywords.

    Raises:
        TypeError: both are given, or a keyword is not one of those `known`.
    """
    for name in keywords:
        if name not in known:
            own = inspect.signature(function).parameters.keys() - {"keywords"}
            close = difflib.get_close_matches(name, known | own, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise TypeError(f"{function.__name__}() has no argument {name!r}{meant}")
    if options is None:
        return CorpusOptions(**keywords)
    if keywords:
        raise TypeError(
            f"{function.__name__}() takes options=CorpusOptions(...) or keywords ({', '.join(keywords)}), "
            "not both; dataclasses.replace(options, ...) makes a changed copy"
        )
    return options


def skips_bad(on_error: str) -> bool:
    """True for `skip`, false for `stop`."""
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error must be 'stop' or 'skip', not {on_error!r}")
    return on_error == "skip"
