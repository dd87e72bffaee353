"""The options of a merge: which pieces come in, in which order, with which scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from zhuzi.errors import naming

Policy = Literal["paper", "ordered"]
Scripts = Literal["han", "all"]
AddedTokens = Literal["move", "keep"]

_WORDS = {
    "policy": get_args(Policy),
    "scripts": get_args(Scripts),
    "added_tokens": get_args(AddedTokens),
}


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """All options that decide the vocabulary, besides the models, the text counted and the tokens to add.

    Raises:
        ValueError: a value outside its range.
        TypeError: a value of another type.
    """

    policy: Policy = "paper"
    """Scores of the new pieces. "paper": 0, as published; their merges tie. "ordered": above the base's,
    strictly decreasing, so that no two merges tie and every engine gives the same ids."""
    scripts: Scripts = "all"
    """With "han" a new piece holds Han and, besides, only `▁` at its start and Chinese punctuation: a text
    without Han keeps its ids."""
    ascii: bool = True
    """Take pieces of ASCII alone (`▁` aside)."""
    digits: bool = True
    """Take pieces that join a digit (ASCII or full-width) to another character; LLaMA's model has none."""
    max_length: int | None = None
    """Take pieces of at most this many code points, `▁` included."""
    top: int | None = None
    """Take at most this many new pieces, the first in order."""
    repair: bool = False
    """Make every new piece one that some text becomes, and leave every old one so."""
    added_tokens: AddedTokens = "move"
    """What becomes of added tokens of the base: they "move" behind the new pieces, or those with a row "keep"
    their ids, as CONTROL pieces of the model."""

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            value = getattr(self, name)
            if value not in words:
                wanted = " or ".join(f"'{word}'" for word in words)
                raise naming(ValueError, (name, None), f" must be {wanted}, not {value!r}")
        for name in ("ascii", "digits", "repair"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name in ("max_length", "top"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if not 1 <= value < 1 << 32:
                raise naming(ValueError, (name, None), f" must be at least 1 and below 2**32, not {value}")


class MergeKeywords(TypedDict, total=False):
    """The fields of `MergeOptions` as keywords. A test holds their names and types equal."""

    policy: Policy
    scripts: Scripts
    ascii: bool
    digits: bool
    max_length: int | None
    top: int | None
    repair: bool
    added_tokens: AddedTokens
