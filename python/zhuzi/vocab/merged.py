"""What a merge made: which pieces came in, which did not and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zhuzi._show import Report

#: Why a piece of a donor did not come in, by its name in reports.
REASONS = {
    "in_base": "in the base already",
    "in_earlier_donor": "in an earlier donor",
    "no_text": "control, unknown or byte: without text of their own",
    "script": "not Han",
    "ascii": "ASCII alone",
    "digits": "with a digit beside another character",
    "length": "too long",
    "room": "after the last one there was room for",
    "unreachable": "no text would become them",
    "breaks": "no text would become another piece, if they were there",
}


class NewPiece(NamedTuple):
    """A piece that came in."""

    id: int
    piece: str
    kind: str
    """NORMAL, USER_DEFINED or UNUSED."""
    donor: int | None
    """The donor's number, from 0; None for a piece that others are made of and no donor has."""
    uses: int | None
    """How often it was made of the text whose tokens were counted: as a token or inside a longer piece."""


class LeftOutPiece(NamedTuple):
    """A piece of a donor that did not come in."""

    piece: str
    kind: str
    donor: int
    """The donor's number, from 0."""
    reason: str
    """A key of `REASONS`."""
    about: str
    """For "unreachable" what its text becomes, for "breaks" the piece that it would break; else empty."""


@dataclass(frozen=True, repr=False)
class DonorCounts(Report):
    """What became of the pieces of one donor."""

    path: Path
    pieces: int
    appended: int
    left_out: Mapping[str, int]
    """Reason (a key of `REASONS`) -> number of its pieces."""

    def _headline(self) -> str:
        return f"{self.path}: {self.appended:,} of {self.pieces:,} pieces appended"


@dataclass(frozen=True, repr=False)
class MergedVocab(Report):
    """What `merge_vocab` made."""

    folder: Path
    base_size: int
    """Pieces of the base's model."""
    appended: int
    """New pieces."""
    shared: int
    """Pieces of the donors that the base already had."""
    left_out_pieces: tuple[str, ...]
    """Control, unknown and byte pieces of the donors that the base lacks: they have no text."""
    user_defined: tuple[str, ...]
    """Pieces that were appended as user-defined, as in the donor."""
    kept_as_in_base: tuple[str, ...]
    """User-defined pieces of a donor that have another kind in the base; they keep the base's kind."""
    moved: Mapping[str, tuple[int, int]]
    """Added tokens of the base: their ids there and here. `model extend` moves their rows."""
    already: Mapping[str, int]
    """Tokens of `add_tokens` that the base already had, with their ids; they are not added again."""
    vocab_size: int
    """Ids in all, added tokens included."""
    notes: tuple[str, ...] = ()
    """Added tokens of the base or the donors that were left out, one line each."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Added tokens of the base that keep their ids, as CONTROL pieces of the model."""
    donors: tuple[DonorCounts, ...] = ()
    """What became of each donor's pieces."""
    new_pieces: tuple[NewPiece, ...] = ()
    """The new pieces, in the order of their ids."""
    not_taken: tuple[LeftOutPiece, ...] = ()
    """The pieces of the donors that did not come in, and why."""
    dead: tuple[str, ...] = ()
    """New pieces that no text becomes; none after a repair."""
    killed: tuple[str, ...] = ()
    """Pieces of the base that some text became there, and none does here; none after a repair."""
    counted_bytes: int | None = None
    """Bytes of the text on which the use of the pieces was counted."""

    @property
    def left_out(self) -> int:
        """The number of pieces left out as they have no text."""
        return len(self.left_out_pieces)

    @property
    def inner(self) -> tuple[str, ...]:
        """New pieces that no donor has: others are made of them."""
        return tuple(piece.piece for piece in self.new_pieces if piece.donor is None)

    def without(self, reason: str) -> list[LeftOutPiece]:
        """The pieces that did not come in for a reason (a key of `REASONS`)."""
        return [piece for piece in self.not_taken if piece.reason == reason]

    def _headline(self) -> str:
        return f"{self.folder}: {self.vocab_size:,} ids, {self.appended:,} appended"

    def as_json(self) -> dict[str, object]:
        """Everything, for a JSON file."""
        return {
            "folder": str(self.folder),
            "base_size": self.base_size,
            "appended": self.appended,
            "vocab_size": self.vocab_size,
            "counted_bytes": self.counted_bytes,
            "moved_tokens": {token: {"from": old, "to": new} for token, (old, new) in self.moved.items()},
            "kept_tokens": dict(self.kept),
            "already_there": dict(self.already),
            "kept_as_in_base": list(self.kept_as_in_base),
            "donors": [
                {
                    "path": str(donor.path),
                    "pieces": donor.pieces,
                    "appended": donor.appended,
                    "left_out": dict(donor.left_out),
                }
                for donor in self.donors
            ],
            "dead": list(self.dead),
            "killed": list(self.killed),
            "new_pieces": [piece._asdict() for piece in self.new_pieces],
            "left_out": {
                reason: {
                    "why": why,
                    "pieces": [
                        {"piece": piece.piece, "donor": piece.donor}
                        | ({"about": piece.about} if piece.about else {})
                        for piece in self.without(reason)
                    ],
                }
                for reason, why in REASONS.items()
            },
            "notes": list(self.notes),
        }
