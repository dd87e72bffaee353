"""How the next token is drawn from a model's logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

# torch takes seconds to load: settings are checked without it.
if TYPE_CHECKING:
    import torch

_GREEDY_BELOW = 1e-5  # such a temperature draws the most likely id anyway, and its quotients would overflow


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. The defaults are the published inference settings of Chinese Alpaca.

    Penalty, temperature, top-k and top-p are applied in this order, as in transformers.

    Raises:
        ValueError: an invalid setting, such as a penalty of 0 or a temperature that is not finite.
    """

    max_new_tokens: int = 256
    """Tokens after which the answer ends unless EOS ends it earlier; 0 or more."""
    temperature: float = 0.2
    """Divides the logits: 0 always takes the most likely token, 1 draws by the model's probabilities."""
    top_p: float = 0.9
    """Draw from the most likely tokens whose probabilities sum to this; more than 0, and 1 keeps all
    (Holtzman et al. 1904.09751)."""
    top_k: int = 40
    """Draw from this many of the most likely tokens; 0 keeps all."""
    repetition_penalty: float = 1.1
    """Makes tokens of prompt and answer less likely to be repeated; more than 0, and 1 has no effect
    (Keskar et al. 1909.05858)."""
    seed: int | None = None
    """Makes a draw repeatable; with None each draw differs."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: want 0 or more, not {self.temperature}")
        for name in ("top_p", "repetition_penalty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: want more than 0, not {value}")
        for name in ("max_new_tokens", "top_k"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name}: want 0 or more, not {value}")


class SamplingSettings(TypedDict, total=False):
    """The fields of `Sampling`, for functions that accept them as keywords."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None


#: Always the most likely token, without a penalty.
GREEDY = Sampling(max_new_tokens=64, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


def choose(logits: torch.Tensor, seen: list[int], sampling: Sampling, draw: torch.Generator) -> int:
    """One id from its logits ([ids], fp32, on the CPU; changed in place).

    Args:
        seen: ids of the prompt and the answer so far, for the penalty.
        draw: the source of randomness.
    """
    import torch

    penalty = sampling.repetition_penalty
    if penalty != 1.0:
        used = torch.tensor(sorted(set(seen)))
        scores = logits[used]
        logits[used] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits.argmax())
    logits, order = (logits / sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k > 0:
        logits, order = logits[: sampling.top_k], order[: sampling.top_k]
    probabilities = logits.softmax(-1)
    # Keep the most likely ids up to the one that fills top_p, that one included.
    probabilities[probabilities.cumsum(-1) - probabilities >= sampling.top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=draw)])
