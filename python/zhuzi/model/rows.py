"""Which row of an extended matrix comes from where: decided from ids and headers, before a weight is read.

No trained row is lost: an id of the model's tokenizer keeps its row, or the row moves with its token to the
id that the new tokenizer's record names (`moved_tokens`, by `zhuzi vocab merge --base FOLDER`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhuzi.errors import MismatchError, naming
from zhuzi.model.folder import GENERATION, ModelFolder
from zhuzi.model.initial import BLOCK, Init, initialiser, mean_row
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.added_tokens import names_without_id

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RowPlan:
    """The rows of embedding and head after extending, [rows, hidden size] each."""

    ids: int  # of the new tokenizer; later rows are padding
    rows: int
    trained: int  # the base's rows that belong to its ids; later ones are padding
    moved: dict[str, tuple[int, int]]  # token -> its old id and its new one
    started: dict[int, list[int]]  # new id -> its text's ids under the old tokenizer, in the order of the ids
    no_row: dict[str, tuple[int, int]]  # token of the base without a row -> its old id and its new one
    left_out: tuple[str, ...]  # tokens of the base that have no row, nor an id of the new tokenizer

    def followed(self, id: object) -> int | None:
        """The new id of the token with an old id; None if it has none, or there was no such token."""
        for before, after in (*self.moved.values(), *self.no_row.values()):
            if before == id:
                return after
        return id if isinstance(id, int) and 0 <= id < self.trained else None

    def blocks(
        self, matrix: torch.Tensor, dtype: str, name: str, init: Init, seed: int
    ) -> Iterator[torch.Tensor]:
        """The extended matrix in `dtype`, some rows at a time. `initial.py` says how the new ones start.

        New padding rows are the mean of the trained ones. In a head this makes a padding id less likely than
        the average token in any context (exp is convex), while rows of zeros may be likelier than most.
        """
        import torch

        old = matrix.to(getattr(torch, dtype))
        start = initialiser(init, seed, old[: self.trained], name)
        padding = mean_row(old[: self.trained]) if self.rows > max(self.ids, len(old)) else None
        origin = {after: before for before, after in self.moved.values()}
        for begin in range(0, self.rows, BLOCK):
            ids = range(begin, min(begin + BLOCK, self.rows))
            block = old.new_empty(len(ids), old.shape[1])
            if begin < len(old):
                held = old[begin : ids.stop]
                block[: len(held)] = held
            if padding is not None and ids.stop > max(self.ids, len(old)):
                block[max(self.ids, len(old), begin) - begin :] = padding.to(old.dtype)
            for after in ids:
                if after in origin:
                    block[after - begin] = old[origin[after]]
            if new := [id for id in ids if id in self.started]:
                rows = start([self.started[id] for id in new])
                block[torch.tensor(new) - begin] = rows.to(old.dtype)
            yield block


def plan_rows(
    base: ModelFolder,
    new: Tokenizer,
    moves: dict[str, tuple[int, int]],
    multiple: int | None,
    *,
    nothing: bool = False,
) -> RowPlan:
    """Plan the rows for the new tokenizer's ids, padded to a multiple if one is given.

    Raises:
        MismatchError: a trained row would be lost, or, unless `nothing` is allowed, none is to be added.
    """
    old = base.tokenizer
    base.require_rows_of_pieces()
    trained = min(old.vocab_size, base.rows)
    if new.vocab_size < trained:
        raise MismatchError(
            f"the new tokenizer has {new.vocab_size} ids, the model {base.path} {trained}: rows are never "
            f"removed; {_fix(base)}"
        )
    _require_all_named(base)
    moved = {
        token: (before, after)
        for token, (before, after) in moves.items()
        if before < trained and old.token_to_id(token) == before and new.token_to_id(token) == after
    }
    kept = _kept(base, new, trained, {before for before, _ in moved.values()})
    arrived = {after for _, after in moved.values()}
    started = {
        i: old.encode_piece(new.id_to_token(i))
        for i in range(new.vocab_size)
        if i not in kept and i not in arrived
    }
    rows = max(base.rows, new.vocab_size)
    if multiple is not None:
        rows = -(-rows // multiple) * multiple
    if not started and rows == base.rows and not nothing:
        raise naming(
            MismatchError,
            f"nothing to extend: each of the tokenizer's {new.vocab_size} ids has its row in {base.path} "
            "already; give the larger tokenizer that `zhuzi vocab merge` wrote, or ",
            ("pad_to_multiple", None),
            " for more rows",
        )
    homeless = {old.id_to_token(i): i for i in range(trained, old.vocab_size)}
    no_row = {
        token: (before, after)
        for token, before in homeless.items()
        if (after := new.token_to_id(token)) is not None
    }
    left_out = tuple(token for token in homeless if token not in no_row)
    return RowPlan(new.vocab_size, rows, trained, moved, started, no_row, left_out)


def _kept(base: ModelFolder, new: Tokenizer, trained: int, leaving: set[int]) -> set[int]:
    """Ids that are the same token in both; every other id of the base must be one that moves."""
    kept = set()
    for i in range(trained):
        ours, theirs = base.tokenizer.id_to_token(i), new.id_to_token(i)
        if ours == theirs:
            kept.add(i)
        elif i not in leaving:
            raise MismatchError(
                f"id {i} is {ours!r} in {base.path} and {theirs!r} in the new tokenizer: the row trained for "
                f"it would be lost; {_fix(base)}"
            )
    return kept


def _require_all_named(base: ModelFolder) -> None:
    """Refuse to take rows beyond the ids for padding if the folder names tokens that may be theirs."""
    old = base.tokenizer
    if base.rows <= old.vocab_size:
        return
    for file, settings in (("config.json", base.config), (GENERATION, base.generation_config)):
        for key, value in settings.items():
            for id in value if isinstance(value, list) else [value]:
                if key.endswith("_token_id") and isinstance(id, int) and old.vocab_size <= id < base.rows:
                    raise MismatchError(
                        f"{base.path / file}: {key} is {id}, which no file gives a token; write "
                        f'{{"TOKEN": {id}}} into the added_tokens.json there, or correct {key}'
                    )
    known = {piece.text for piece in old.pieces()}
    for token in names_without_id(base.path, known):
        raise MismatchError(
            f"{base.path}: names the special token {token!r}, but no file gives its id, and the rows from "
            f"{old.vocab_size} on have no token; write {{{json.dumps(token)}: ID}} into its added_tokens.json"
        )


def _fix(base: ModelFolder) -> str:
    return (
        "give a tokenizer that was merged into this model's own, by "
        f"`zhuzi vocab merge --base {base.path} --donor DONOR --out TOKENIZER`"
    )
