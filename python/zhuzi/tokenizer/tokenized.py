"""A text and its tokens, for people to look at; beside those of another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zhuzi._show import Report, count
from zhuzi.tokenizer.tokenizer import Tokenizer

#: Names the layout of `as_json`. Fields may be added; none is renamed or changes its meaning.
FORMAT = "zhuzi.tokenize/1"


@dataclass(frozen=True, repr=False)
class TokenizedText(Report):
    """A text as one vocabulary cuts it, without BOS and EOS."""

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    """Begin and end of each token in the text, in code points; see `Tokenizer.encode_with_offsets`."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @property
    def characters(self) -> int:
        """Code points of the text."""
        return len(self.text)

    @property
    def bytes(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode())

    @property
    def characters_a_token(self) -> float:
        """Characters for each token; 0 without tokens."""
        return self.characters / self.tokens if self.tokens else 0.0

    def as_json(self) -> dict[str, Any]:
        """Ids, pieces, offsets and counts in JSON's types, without the text."""
        return {
            "tokens": self.tokens,
            "characters": self.characters,
            "bytes": self.bytes,
            "characters_per_token": round(self.characters_a_token, 6),
            "ids": list(self.ids),
            "pieces": list(self.pieces),
            "offsets": [list(offset) for offset in self.offsets],
        }

    def counts(self) -> str:
        """The counts on one line."""
        return (
            f"{count(self.tokens, 'token')}, {count(self.characters, 'character')}, "
            f"{count(self.bytes, 'byte')}, {self.characters_a_token:.3f} characters per token"
        )

    def _headline(self) -> str:
        return self.counts()


def tokenize_text(text: str, tokenizer: Tokenizer) -> TokenizedText:
    """The tokens of a text with their pieces and offsets."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    pieces = tuple(tokenizer.id_to_token(id) for id in ids)
    return TokenizedText(text, tuple(ids), pieces, tuple(offsets))


class Stretch(NamedTuple):
    """A part of a text that begins and ends between two tokens of both vocabularies."""

    begin: int
    end: int
    one: tuple[int, ...]
    """Numbers of the tokens of the first."""
    other: tuple[int, ...]
    """Numbers of the tokens of the second."""


def align(one: TokenizedText, other: TokenizedText) -> list[Stretch]:
    """The same text in two vocabularies, cut wherever both have a boundary."""
    cuts, others = _cuts(one.offsets), _cuts(other.offsets)
    stretches = []
    begin = first = second = 0
    for end in sorted(cuts.keys() & others.keys()):
        stretches.append(
            Stretch(begin, end, tuple(range(first, cuts[end])), tuple(range(second, others[end])))
        )
        begin, first, second = end, cuts[end], others[end]
    if first < one.tokens or second < other.tokens:
        rest = tuple(range(first, one.tokens)), tuple(range(second, other.tokens))
        stretches.append(Stretch(begin, one.characters, *rest))
    return stretches


def _cuts(offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Where the text may be cut, and the tokens before: one that spans nothing goes with the next."""
    found: dict[int, int] = {}
    reached = 0
    for number, (begin, end) in enumerate(offsets, 1):
        if end > begin and end > reached:
            found[end] = number
            reached = end
    return found
