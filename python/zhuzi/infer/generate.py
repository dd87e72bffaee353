"""Token by token: ids after a prompt, and their text as they come."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Unpack

from zhuzi.errors import InputError
from zhuzi.infer.sampling import GREEDY, Sampling, SamplingSettings, choose
from zhuzi.model.positions import positions_of
from zhuzi.tokenizer import Tokenizer

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
    if room is None or room >= sampling.max_new_tokens:
        return _ids(model, prompt, eos_id, limit, sampling)
    cut = replace(sampling, max_new_tokens=room)
    return _warned(_ids(model, prompt, eos_id, limit, cut), room, len(prompt))


def _ids(model: Any, prompt: list[int], eos_id: int | None, limit: int, sampling: Sampling) -> Iterator[int]:
    import torch

    draw = torch.Generator()
    draw.manual_seed(sampling.seed) if sampling.seed is not None else draw.seed()
    device = next(model.parameters()).device
    seen, step, cache = list(prompt), torch.tensor([prompt], device=device), None
    keyword = cache_keyword(model)
    for _ in range(sampling.max_new_tokens):
        with _evaluating(model):
            output = model(input_ids=step, use_cache=True, **{keyword: cache})
        logits, cache = output.logits[0, -1, :limit].float().cpu(), getattr(output, keyword)
        chosen = choose(logits, seen, sampling, draw)
        if chosen == eos_id:
            return
        yield chosen
        seen.append(chosen)
        step = torch.tensor([[chosen]], device=device)


def cache_keyword(model: Any) -> str:
    """The name by which the model's forward takes and returns the keys and values of earlier tokens.

    transformers renames it. It must be a parameter by name: `**kwargs` swallows a wrong one, and every token
    would be chosen from the last alone.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    base = getattr(base, "_orig_mod", base)  # torch.compile's wrapper
    taken = inspect.signature(type(base).forward).parameters  # training replaces that of the instance
    for name in ("cache", "past_key_values"):
        if name in taken:
            return name
    raise InputError(
        f"{type(base).__name__}.forward takes neither cache nor past_key_values, so it cannot answer token "
        "by token; load a causal language model of transformers"
    )


def require_room(positions: int | None, prompt: int) -> int | None:
    """Tokens that `positions` leave for an answer to a prompt of this length; None if they are not known.

    Raises:
        InputError: they leave no room.
    """
    if positions is None:
        return None
    if prompt >= positions:
        raise InputError(
            f"the prompt has {prompt:,} tokens, and the model {positions:,} positions for prompt and answer "
            "together; shorten it"
        )
    return positions - prompt


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
    """The text of ids as they come.

    A character without a piece of its own arrives as up to four byte tokens and decodes to U+FFFD until the
    last of them: such a tail is held back.
    """
    held: list[int] = []
    sent = 0
    for i in ids:
        held.append(i)
        text = tokenizer.decode(held).rstrip("\ufffd")
        if len(text) > sent:
            yield text[sent:]
            sent = len(text)
    rest = tokenizer.decode(held)[sent:] if held else ""
    if rest:
        yield rest


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No gradient and no dropout for one forward; between forwards the model is in its own mode."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
