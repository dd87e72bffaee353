"""The counts that the demo's vocabulary is learnt from: a word list that jieba carries, and the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

#: Of all characters counted, about one in so many is the text's: it decides which of the words come first.
_TEXT_SHARE = 6
_HAN = re.compile(r"[㐀-䶿一-鿿]+")
_LINE = re.compile(r"[^\s]+")


def write_counts(texts: Iterable[str], path: Path) -> dict[str, str | int]:
    """Write `text<TAB>count` lines for `zhuzi.extend_vocab`; returns what they come from.

    The word list is `dict.txt` of jieba (MIT): `word count tag`, 349,000 words counted in newspapers and
    novels. The text of a demo is far shorter: it is counted as often as makes it a sixth of everything.

    Raises `ModuleNotFoundError` without jieba.
    """
    name, listed = _word_list()
    words = [(word, count) for word, count in _read(listed) if _HAN.fullmatch(word)]
    runs = [run for text in texts for run in _LINE.findall(text)]
    characters = sum(len(word) * count for word, count in words)
    weight = max(characters // (max(sum(map(len, runs)), 1) * (_TEXT_SHARE - 1)), 1)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{word}\t{count}\n" for word, count in words)
        file.writelines(f"{run}\t{weight}\n" for run in runs)
    return {"word_list": name, "words": len(words), "text_counted": weight}


def _word_list() -> tuple[str, Path]:
    """Name and path of the list. jieba is not imported: that takes a second, and warns in newer Pythons."""
    try:
        found = distribution("jieba")
    except PackageNotFoundError:
        raise ModuleNotFoundError("No module named 'jieba'", name="jieba") from None
    return f"jieba {found.version}", Path(str(found.locate_file("jieba/dict.txt")))


def _read(path: Path) -> Iterator[tuple[str, int]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, count, *_ = line.split(" ")
            yield word, int(count)
