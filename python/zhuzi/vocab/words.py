"""Word lists with counts, and plain lists of pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhuzi.errors import InputError
from zhuzi.record.place import PathLike


def read_counts(path: PathLike) -> Iterator[tuple[str, int]]:
    """Words and counts of a file: `word<TAB>count`, or `word count tag` with spaces as in jieba's list.

    SentencePiece's own TSV input has the first form. Blank lines are passed over.

    Raises:
        InputError: a line without a count, or whose count is no number, with its place.
    """
    with Path(path).open(encoding="utf-8") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                line = line.strip("\r\n\ufeff")
                if line.strip():
                    yield _word_and_count(line, f"{path}: line {number}")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: after line {number}: not UTF-8; convert the file") from error


def _word_and_count(line: str, place: str) -> tuple[str, int]:
    word, tab, rest = line.partition("\t")
    parts = rest.split() if tab else line.split()[1:]
    word = word if tab else line.split()[0]
    if not parts or not word:
        raise InputError(f"{place}: `{line[:40]}` has no count; write word, tab, count")
    if not (parts[0].isascii() and parts[0].isdecimal()) or int(parts[0]) >= 2**63:
        raise InputError(
            f"{place}: the count of `{word[:40]}` is `{parts[0][:40]}`; give a whole number, from 0 to 2^63"
        )
    return word, int(parts[0])


def read_list(path: PathLike) -> list[str]:
    """The lines of a file, without blank ones: pieces, or characters."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
