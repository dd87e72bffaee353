"""Adapters that bring a larger vocabulary with them, as those of Chinese-LLaMA-Alpaca.

Such an adapter holds embedding and head whole, with rows for the ids of its own tokenizer: the base need not
be extended first, as none of its rows would be left. The tokenizer tells that the rows are the right ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from zhuzi.errors import MismatchError
from zhuzi.model.adapter import AdapterFolder, is_whole, target_of
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.model.rows import plan_rows
from zhuzi.model.settings import generation_settings, original_rows, special_ids
from zhuzi.tokenizer import Tokenizer


@dataclass(frozen=True)
class Growth:
    """What an adapter makes of a base."""

    rows: int
    tokenizer: Tokenizer
    config: dict[str, Any]
    """What changes in config.json."""
    generation: dict[str, Any]
    """The settings of generation."""
    original_rows: int | None
    """Leading rows that are the first base's."""

    def of(self, base: ModelFolder) -> ModelFolder:
        """The base with the shapes, the settings and the tokenizer of the result; its weights stay."""
        tensors = {
            name: replace(info, shape=(self.rows, *info.shape[1:])) if name in (EMBEDDING, HEAD) else info
            for name, info in base.tensors.items()
        }
        grown = replace(base, tensors=tensors, config={**base.config, **self.config})
        grown.__dict__["tokenizer"] = self.tokenizer  # in place of the one in the base's folder
        return grown


def growth(base: ModelFolder, adapter: AdapterFolder, original: int | None) -> Growth | None:
    """How the adapter makes the base's vocabulary larger; None if it does not, or does not say by which ids.

    Args:
        original: rows of the first base, if an earlier adapter made the vocabulary larger.

    Raises:
        MismatchError: a token of the base would have another id, or a row would have none.
    """
    rows = _rows(base, adapter)
    if rows is None or adapter.record is not None or not (adapter.path / "tokenizer.model").is_file():
        return None
    new = Tokenizer.from_dir(adapter.path)
    if new.vocab_size > rows:
        raise MismatchError(
            f"{adapter.path}: its tokenizer has {new.vocab_size:,} ids, its embedding {rows:,} rows; take "
            "both from where the adapter was published"
        )
    plan = replace(plan_rows(base, new, {}, None, nothing=True), rows=rows)
    config = {"vocab_size": rows, **special_ids(base, new, plan)}
    generation = generation_settings(base, config, plan) if base.generation_config else {}
    known = [n for n in (original, original_rows(base, plan)) if n is not None]
    return Growth(rows, new, config, generation, min(known, default=None))


def _rows(base: ModelFolder, adapter: AdapterFolder) -> int | None:
    """Rows of embedding and head where the adapter replaces both and has more than the base."""
    whole = {
        target_of(n): info.shape
        for n, info in adapter.tensors.items()
        if is_whole(n) and len(info.shape) == 2
    }
    shapes = [whole.get(name) for name in ((EMBEDDING,) if base.tied else (EMBEDDING, HEAD))]
    first = shapes[0]
    if first is None or any(shape != first for shape in shapes):
        return None
    return first[0] if first[0] > base.rows and first[1:] == base.tensors[EMBEDDING].shape[1:] else None
