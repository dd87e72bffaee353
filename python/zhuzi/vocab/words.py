"""Word lists with counts, and plain lists of pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhuzi.errors import InputError
from zhuzi.record.place import PathLike

_NOT_TEXT = "not UTF-8; convert the file (iconv -f gb18030 -t utf-8), or unpack it if it is packed"


def read_counts(path: PathLike) -> Iterator[tuple[str, int]]:
    """Words and counts of a file: `word<TAB>count`, or `word count tag` with spaces as in jieba's list.

    SentencePiece's own TSV input has the first form. Blank lines are passed over.

    Raises:
        InputError: a line without a count, or whose count is no number, with its place.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; name a file of words with counts")
    with Path(path).open("rb") as file:
        for number, data in enumerate(file, 1):
            place = f"{path}: line {number}"
            try:
                line = data.decode("utf-8").strip("\r\n\ufeff")
            except UnicodeDecodeError:
                raise InputError(f"{place}: {_NOT_TEXT}") from None
            if line.strip():
                yield _word_and_count(line, place)


def _word_and_count(line: str, place: str) -> tuple[str, int]:
    word, tab, rest = line.partition("\t")
    parts = rest.split() if tab else line.split()[1:]
    word = word if tab else line.split()[0]
    if not parts or not word:
        raise InputError(f"{place}: `{line[:40]}` has no count; write word, tab, count")
    number = parts[0]
    is_whole = number.isascii() and number.isdecimal()
    # int() refuses very long numbers in words of its own
    if not is_whole or len(number.lstrip("0")) > len(str(2**63)) or int(number) >= 2**63:
        raise InputError(
            f"{place}: the count of `{word[:40]}` is `{number[:40]}`; "
            "give a whole number, at least 0 and below 2^63"
        )
    return word, int(number)


def read_list(path: PathLike) -> list[str]:
    """The lines of a file, without blank ones: pieces, or characters."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; name a file with one piece a line")
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start}: {_NOT_TEXT}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
