"""What a model's settings say of ids and rows, when it gets a larger vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from zhuzi.model.folder import GENERATION, ModelFolder
from zhuzi.model.rows import RowPlan
from zhuzi.tokenizer import Tokenizer

# Settings of generation that contain ids, other than those called `..._token_id`.
_ID_LISTS = {"suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"}
_log = logging.getLogger("zhuzi.model")


def original_rows(base: ModelFolder, plan: RowPlan) -> int | None:
    """Leading rows that are the first base's: those an extended base records, else its ids that stay.

    Unknown still where no row was added: the first base may be an earlier one.
    """
    if plan.rows == base.rows and not plan.started and base.original_rows is None:
        return None
    stay = min([base.rows, base.tokenizer.vocab_size, *(before for before, _ in plan.moved.values())])
    return stay if base.original_rows is None else min(stay, base.original_rows)


def special_ids(base: ModelFolder, new: Tokenizer, plan: RowPlan) -> dict[str, Any]:
    """The ids for config.json of the tokens that begin, end and pad a text: the base's, where it has them."""
    ours = {"bos_token_id": new.bos_id, "eos_token_id": new.eos_id, "pad_token_id": new.pad_id}
    return _named_ids(base, "config.json", base.config, ours, plan)


def _named_ids(
    base: ModelFolder, file: str, settings: Mapping[str, Any], otherwise: Mapping[str, Any], plan: RowPlan
) -> dict[str, Any]:
    """The new ids of the tokens that begin, end and pad a text, as a file of the base names them.

    Where it names none, or an id without a token, those of `otherwise` are taken.
    """
    special = dict(otherwise)
    for key, ours in otherwise.items():
        held = settings.get(key)
        if held is None:
            continue
        followed = [plan.followed(id) for id in (held if isinstance(held, list) else [held])]
        ids = [id for id in followed if id is not None]
        why = "no token of the new model" if len(ids) < len(followed) else ""
        if key == "pad_token_id" and held == base.tokenizer.unk_id and ours is not None:
            why = "the unknown piece"  # models without a padding token had it for one
        elif ids:
            special[key] = ids if isinstance(held, list) else ids[0]
        if why:
            _log.warning(f"{base.path / file}: {key} is {held}, {why}; it becomes {special[key]}")
    return special


def generation_settings(base: ModelFolder, special: Mapping[str, Any], plan: RowPlan) -> dict[str, Any]:
    """The settings of generation, with the new ids."""
    settings = base.generation_config
    named = [key for key in settings if key.endswith("_token_id") or key in _ID_LISTS]
    ids = {key: _renumbered(settings[key], plan) for key in named}
    begin_end_pad = _named_ids(base, GENERATION, settings, special, plan)
    if begin_end_pad["pad_token_id"] is not None:
        ids["pad_token_id"] = begin_end_pad["pad_token_id"]
    return {**settings, **ids, **{key: id for key, id in begin_end_pad.items() if key in settings}}


def _renumbered(value: Any, plan: RowPlan) -> Any:
    if isinstance(value, list):
        return [_renumbered(entry, plan) for entry in value]
    followed = plan.followed(value)
    return value if followed is None else followed
