"""What computes the logits of the next token: a model of transformers, a step at a time."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from zhuzi.errors import InputError
from zhuzi.model.positions import positions_of

if TYPE_CHECKING:
    import torch


class Sequence(Protocol):
    """One text that grows token by token."""

    def advance(self, ids: list[int]) -> torch.Tensor:
        """Read further ids (all of the prompt at first) and give the logits of what follows them.

        Logits are fp32 on the CPU, one for each id of the tokenizer, and may be changed by the caller.
        """
        ...

    def close(self) -> None:
        """Free what was kept of the ids read so far."""
        ...


class Engine(Protocol):
    """Something that continues texts; several at the same time, from one thread."""

    @property
    def positions(self) -> int | None:
        """Tokens of a prompt and its answer together, at most; None if that is not known."""
        ...

    def start(self) -> Sequence:
        """A new, empty sequence."""
        ...


class TransformersEngine:
    """A causal language model of transformers, on any device; each sequence has a key-value cache."""

    def __init__(self, model: Any, limit: int) -> None:
        """`limit` is the number of the tokenizer's ids; rows of the model beyond them are padding."""
        self.model, self.limit = model, limit

    @property
    def positions(self) -> int | None:
        """The model's positions."""
        return positions_of(self.model)

    def start(self) -> TransformersSequence:
        """A new, empty sequence."""
        return TransformersSequence(self.model, self.limit)


class TransformersSequence:
    """One text, its keys and values."""

    def __init__(self, model: Any, limit: int) -> None:
        self._model, self._limit = model, limit
        self._keyword = cache_keyword(model)
        # All rows of a prompt's logits could need more memory than the model.
        self._last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in _parameters(model) else {}
        self._cache: Any = None

    def advance(self, ids: list[int]) -> torch.Tensor:
        """Read further ids and give the logits of what follows them, in one forward."""
        import torch

        step = torch.tensor([ids], device=next(self._model.parameters()).device)
        with _evaluating(self._model):
            output = self._model(input_ids=step, use_cache=True, **{self._keyword: self._cache}, **self._last)
        self._cache = getattr(output, self._keyword)
        logits: torch.Tensor = output.logits[0, -1, : self._limit].float().cpu()
        return logits

    def close(self) -> None:
        """Free the keys and values."""
        self._cache = None


def cache_keyword(model: Any) -> str:
    """The name by which the model's forward takes and returns the keys and values of earlier tokens.

    transformers renames it. It must be a parameter by name: `**kwargs` swallows a wrong one, and every token
    would be chosen from the last alone.
    """
    taken = _parameters(model)
    for name in ("cache", "past_key_values"):
        if name in taken:
            return name
    raise InputError(
        f"{type(_base(model)).__name__}.forward takes neither cache nor past_key_values, so it cannot answer "
        "token by token; load a causal language model of transformers"
    )


def _base(model: Any) -> Any:
    """The model of transformers in PEFT's and torch.compile's wrappers."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return getattr(base, "_orig_mod", base)


def _parameters(model: Any) -> Collection[str]:
    """What the model's forward takes by name."""
    return inspect.signature(type(_base(model)).forward).parameters  # training replaces that of the instance


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
