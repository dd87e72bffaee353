"""Token by token: ids after a prompt, and their text as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Unpack

from zhuzi.infer.answer import TextStream, require_room, tokens
from zhuzi.infer.engine import TransformersEngine, cache_keyword
from zhuzi.infer.sampling import GREEDY, Sampling, SamplingSettings
from zhuzi.model.positions import positions_of
from zhuzi.tokenizer import Tokenizer

__all__ = ["cache_keyword", "generate", "require_room", "stream_text"]

_log = logging.getLogger(__name__)


def generate(
    model: Any,
    prompt: list[int],
    *,
    eos_id: int | None,
    limit: int,
    sampling: Sampling = GREEDY,
    **settings: Unpack[SamplingSettings],
) -> Iterator[int]:
    """Ids after `prompt`, one forward per token with a key-value cache; EOS is not among them.

    Args:
        model: a causal language model of transformers, on any device.
        limit: the number of the tokenizer's ids; rows of the model beyond them are padding.
        sampling: how ids are drawn, the most likely by default.
        settings: fields of `sampling` to change.

    Raises:
        ValueError: an invalid setting.
        InputError: a prompt that fills the model's positions. Both are raised here, not at the first id.
    """
    sampling = replace(sampling, **settings)
    room = require_room(positions_of(model), len(prompt))
    made = tokens(TransformersEngine(model, limit), prompt, frozenset([eos_id]), sampling)
    ids = (token.id for token in made if not token.ends)
    return ids if room is None or room >= sampling.max_new_tokens else _warned(ids, room, len(prompt))


def _warned(ids: Iterator[int], room: int, prompt: int) -> Iterator[int]:
    """The ids, with a warning after the last if the positions are full."""
    made = 0
    for i in ids:
        made += 1
        yield i
    if made == room:
        _log.warning(
            "the answer is cut after %d tokens: with the prompt's %d the model's %d positions are full",
            made,
            prompt,
            prompt + made,
        )


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come, in whole characters (`TextStream`)."""
    stream = TextStream(tokenizer)
    for i in ids:
        text = stream.push(i)
        if text:
            yield text
    rest = stream.finish()
    if rest:
        yield rest
