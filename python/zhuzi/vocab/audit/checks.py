"""What can be said of a vocabulary without a corpus: dead pieces, ties, digits, characters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.record.place import PathLike
from zhuzi.tokenizer import Tokenizer
from zhuzi.vocab.audit.result import Coverage, DeadEntry, Digits, Ties
from zhuzi.vocab.dead import dead_pieces
from zhuzi.vocab.engines import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A number that a vocabulary with one token for each digit splits.
NUMBER = "20,000"

#: Characters without a token that a coverage names.
_MISSING = 200

#: ASCII and full-width digits: those that sentencepiece's `split_digits` separates.
_DIGITS = frozenset("0123456789０１２３４５６７８９")


@dataclass(frozen=True)
class Vocab:
    """A vocabulary under audit, and what is derived from it once."""

    path: PathLike
    name: str
    tokenizer: Tokenizer

    @cached_property
    def pieces(self) -> list[str]:
        """The texts of all ids."""
        return [piece.text for piece in self.tokenizer.pieces()]

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of all ids."""
        return [piece.kind for piece in self.tokenizer.pieces()]

    @cached_property
    def dead(self) -> dict[int, tuple[int, ...]]:
        """Ids of dead pieces, and what they become."""
        return {piece.id: piece.becomes_ids for piece in dead_pieces(self.path)}

    @cached_property
    def known(self) -> frozenset[str]:
        """The texts of the model's pieces."""
        return frozenset(self.pieces[: len(self.pieces) - len(self.tokenizer.added_tokens)])

    @cached_property
    def makeable(self) -> list[int]:
        """Ids of the pieces that some text becomes; bytes are none."""
        wanted = {"NORMAL", "USER_DEFINED"}
        return [id for id, kind in enumerate(self.kinds) if kind in wanted and id not in self.dead]

    @property
    def newline(self) -> int | None:
        """Id of the byte 0x0A; None without byte fallback."""
        id = self.tokenizer.token_to_id("<0x0A>")
        return id if id is not None and self.kinds[id] == "BYTE" else None

    def ids_of(self, kind: str) -> list[int]:
        """Ids of one kind."""
        return [id for id, held in enumerate(self.kinds) if held == kind]

    def new(self, base: Vocab | None) -> list[int] | None:
        """Ids of the model's pieces that the base lacks."""
        if base is None:
            return None
        own = len(self.pieces) - len(self.tokenizer.added_tokens)
        return [id for id in range(own) if self.pieces[id] not in base.known]

    def spelled(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The texts of ids."""
        return tuple(self.pieces[id] for id in ids)


def open_vocabs(paths: Sequence[PathLike]) -> list[Vocab]:
    """The vocabularies of folders and model files, each with a name of its own for the report.

    Raises what `Tokenizer.from_dir` and `Tokenizer.from_sentencepiece` raise, and `ValueError` for a path
    that is given twice.
    """
    given = [Path(path) for path in paths]
    places = [path.resolve() for path in given]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ValueError(f"{given[i]}: given twice; name each vocabulary once")
    names = [
        path.stem if path.suffix == ".model" and path.stem != "tokenizer" else path.name for path in given
    ]
    named = [name if names.count(name) == 1 else str(path) for name, path in zip(names, given, strict=True)]
    return [Vocab(path, name or str(path), load(path)) for name, path in zip(named, given, strict=True)]


def moved_pieces(vocab: Vocab, base: Vocab) -> int:
    """Pieces of the base's model that do not have the same id in the vocabulary."""
    own = len(base.pieces) - len(base.tokenizer.added_tokens)
    here = [*vocab.pieces[:own], *[""] * (own - len(vocab.pieces))]
    return sum(one != other for one, other in zip(base.pieces[:own], here, strict=True))


def find_dead(vocab: Vocab, base: Vocab | None) -> tuple[DeadEntry, ...]:
    """The dead pieces and where they come from."""
    dead_before = set() if base is None else {base.pieces[id] for id in base.dead}
    entries = []
    for id, becomes in vocab.dead.items():
        text = vocab.pieces[id]
        if base is None:
            origin = "unknown"
        elif text not in base.known:
            origin = "new"
        else:
            origin = "base" if text in dead_before else "killed"
        entries.append(DeadEntry(id, text, vocab.spelled(becomes), becomes, origin))  # type: ignore[arg-type]
    return tuple(entries)


def find_ties(vocab: Vocab, new: Sequence[int] | None) -> Ties:
    """Which pieces of several characters have the same score as others."""
    scores = {
        # -0.0 is another score than 0.0, as sentencepiece compares them.
        id: (piece.score, math.copysign(1, piece.score))
        for id, piece in enumerate(vocab.tokenizer.pieces())
        if piece.kind in ("NORMAL", "UNUSED") and len(piece.text) > 1
    }
    counts = Counter(scores.values())
    shared = {score: n for score, n in counts.items() if n > 1}
    return Ties(
        pieces=sum(shared.values()),
        new=None if new is None else sum(scores.get(id) in shared for id in new),
        scores=len(shared),
        largest=max(shared.values(), default=0),
    )


def check_digits(vocab: Vocab, base: Vocab | None) -> Digits:
    """Whether digits are tokens of their own."""
    joined = _joined(vocab)
    known = frozenset[str]() if base is None else base.known
    return Digits(
        split=not joined,
        base_splits=None if base is None else not _joined(base),
        joined=len(joined),
        new_joined=tuple(text for text in joined if text not in known),
        example=NUMBER,
        example_pieces=vocab.spelled(vocab.tokenizer.encode(NUMBER)),
    )


def _joined(vocab: Vocab) -> list[str]:
    texts = (vocab.pieces[id] for id in vocab.makeable)
    return [text for text in texts if len(text) > 1 and not _DIGITS.isdisjoint(text)]


def cover(vocab: Vocab, characters: Sequence[str], occurrences: NDArray[Any] | None = None) -> Coverage:
    """Which of `characters` become neither bytes nor the unknown token when they stand alone."""
    import numpy as np

    batch = vocab.tokenizer.encode_batch(list(characters))
    without: NDArray[np.bool_] = np.zeros(vocab.tokenizer.vocab_size, bool)
    without[[*vocab.ids_of("BYTE"), vocab.tokenizer.unk_id]] = True
    before = np.concatenate([[0], np.cumsum(without[batch.ids])])
    bad = before[batch.offsets[1:]] > before[batch.offsets[:-1]]
    counts = np.zeros(len(characters), np.int64) if occurrences is None else occurrences
    missing = np.flatnonzero(bad)
    missing = missing[np.argsort(-counts[missing], kind="stable")]
    return Coverage(
        characters=len(characters),
        covered=len(characters) - len(missing),
        occurrences=int(counts.sum()),
        covered_occurrences=int(counts.sum() - counts[missing].sum()),
        missing=tuple((characters[i], int(counts[i])) for i in missing[:_MISSING].tolist()),
    )
