"""How well a model predicts text, in a unit that does not depend on the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
    model: Any, tokenizer: Tokenizer, texts: Iterable[str], *, context: int = 512
) -> BitsPerByte:
    """Sum of -log2 p over the tokens of the texts, against their UTF-8 bytes.

    Each text is encoded separately, without BOS and EOS, and its tokens are cut into windows of `context` - 1
    tokens. A window is read with BOS in front (so at most `context` tokens are seen at once, and BOS is never
    predicted), and each of its tokens is predicted once, from those before it in the window. Unlike
    perplexity per token, the result can be compared across vocabularies.

    Args:
        model: a causal language model (`transformers`), on any device; evaluated one window at a time, in
            evaluation mode, and left in the mode it was in.

    Raises:
        InputError: the texts have no character, or the tokenizer has no BOS.
        ValueError: a context beyond the model's positions.
    """
    import torch

    if tokenizer.bos_id is None:
        raise InputError("the tokenizer has no BOS id; bits per byte are measured with BOS in front")
    if context < 2:
        raise ValueError(f"context: want at least 2, not {context}")
    texts = [text for text in texts if text]
    if not texts:
        raise InputError("no text to measure: all documents are empty")
    most = positions_of(model)
    if most is not None and context > most:
        raise ValueError(f"context: {context} is beyond the model's {most} positions; want {most} or less")
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    bits, tokens = 0.0, 0
    try:
        for window in _windows(tokenizer, texts, context - 1):
            ids = torch.tensor([[tokenizer.bos_id, *window]], device=device)
            with torch.no_grad():
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0].float()
            nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            bits += float(nats.double().sum()) / math.log(2)
            tokens += len(window)
    finally:
        model.train(training)
    return BitsPerByte(bits, tokens, sum(map(len, texts)), sum(len(text.encode()) for text in texts))


def _windows(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> Iterator[list[int]]:
    for text in texts:
        ids = tokenizer.encode(text)
        for begin in range(0, len(ids), size):
            yield ids[begin : begin + size]
