"""How well a model predicts text, in a unit that does not depend on the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zhuzi._show import Report, count
from zhuzi.errors import InputError
from zhuzi.model.positions import positions_of
from zhuzi.tokenizer import Tokenizer


@dataclass(frozen=True, repr=False)
class BitsPerByte(Report):
    """What `bits_per_byte` measured. Smaller is better; guessing bytes uniformly costs 8 bits per byte."""

    bits: float
    tokens: int  # predicted
    characters: int  # Unicode code points
    bytes: int  # of UTF-8

    def _headline(self) -> str:
        return (
            f"{self.per_byte:.4f} per byte, {self.per_character:.3f} per character; "
            f"{count(self.tokens, 'token')} of {count(self.bytes, 'byte')}"
        )

    def _rows(self) -> Iterable[tuple[str, object]]:
        return [
            ("bits per byte", self.per_byte),
            ("bits per character", self.per_character),
            *super()._rows(),
        ]

    @property
    def per_byte(self) -> float:
        """Bits per UTF-8 byte."""
        return self.bits / self.bytes

    @property
    def per_character(self) -> float:
        """Bits per Unicode character."""
        return self.bits / self.characters


def bits_per_byte(
    model: Any,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    context: int = 512,
    stride: int | None = None,
    batch: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> BitsPerByte:
    """Sum of -log2 p over the tokens of the texts, against their UTF-8 bytes.

    Each text is encoded separately, without BOS and EOS, and each of its tokens is predicted once, in windows
    of at most `context` tokens with BOS in front. By default windows do not overlap: a token is predicted
    from those before it in its window. With a `stride`, each window moves on by so many tokens and predicts
    only these: all but the first of a text are predicted from at least `context` - `stride` tokens, BOS
    included. That costs more forwards and gives fewer bits. Unlike perplexity per token, the result can be
    compared across vocabularies.

    Args:
        model: a causal language model (`transformers`), on any device; evaluated in evaluation mode, and left
            in the mode it was in.
        stride: 1 to `context` - 1, the default.
        batch: windows in a forward; it does not change the result (beyond rounding).
        progress: called after each forward with the texts done, and all of them.

    Raises:
        InputError: the texts have no character, or the tokenizer has no BOS.
        ValueError: a context beyond the model's positions, or a stride beyond the context.
    """
    texts = [text for text in texts if text]
    if not texts:
        raise InputError("no text to measure: all documents are empty")
    if tokenizer.bos_id is None:
        raise InputError("the tokenizer has no BOS id; bits per byte are measured with BOS in front")
    require_context(positions_of(model), context, stride)
    training = model.training
    model.eval()
    bits, tokens, done = 0.0, 0, 0

    def windows() -> Iterator[_Window]:
        nonlocal done
        for text in texts:
            yield from _windows(tokenizer.encode(text), context - 1, stride)
            done += 1

    try:
        for group in _groups(windows(), batch):
            bits += _bits(model, tokenizer, group)
            tokens += sum(len(ids) - first for ids, first in group)
            if progress is not None:
                progress(done, len(texts))
    finally:
        model.train(training)
    return BitsPerByte(bits, tokens, sum(map(len, texts)), sum(len(text.encode()) for text in texts))


def require_context(most: int | None, context: int, stride: int | None = None) -> None:
    """Raise `ValueError` for a context beyond `most` (the model's positions), or a stride beyond it."""
    if context < 2:
        raise ValueError(f"context: want at least 2, not {context}")
    if stride is not None and not 0 < stride < context:
        raise ValueError(f"stride: want 1 to {context - 1}, not {stride}")
    if most is not None and context > most:
        raise ValueError(f"context: {context} is beyond the model's {most} positions; want {most} or less")


# The ids of a window, and the first of them that is predicted here; those before it are only read.
_Window = tuple[list[int], int]


def _windows(ids: list[int], size: int, stride: int | None) -> Iterator[_Window]:
    step = stride or size
    for begin in range(0, len(ids), step):
        end = min(begin + step, len(ids))
        start = begin if stride is None else max(0, end - size)
        yield ids[start:end], begin - start


def _groups(windows: Iterable[_Window], batch: int) -> Iterator[list[_Window]]:
    """So many windows at a time."""
    windows = iter(windows)
    while group := list(islice(windows, batch)):
        yield group


def _bits(model: Any, tokenizer: Tokenizer, group: Sequence[_Window]) -> float:
    """Bits of the predicted tokens of some windows; the shorter ones are padded on the right."""
    import torch
    from torch.nn.functional import cross_entropy

    device = next(model.parameters()).device
    longest = max(len(ids) for ids, _ in group)
    rows = [[tokenizer.bos_id, *ids, *[0] * (longest - len(ids))] for ids, _ in group]
    targets = [[-100] * first + ids[first:] + [-100] * (longest - len(ids)) for ids, first in group]
    inputs = torch.tensor(rows, device=device)[:, :-1]
    with torch.no_grad():
        logits = model(input_ids=inputs, use_cache=False).logits
    nats = 0.0
    for scores, target in zip(logits, torch.tensor(targets, device=device), strict=True):
        nats += float(cross_entropy(scores.float(), target, reduction="none").double().sum())
    return nats / math.log(2)
