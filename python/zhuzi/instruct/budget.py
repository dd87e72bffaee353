"""Where a collection of instruction data ends: records, calls, tokens, money."""

from __future__ import annotations

from dataclasses import dataclass

from zhuzi.errors import naming


@dataclass(frozen=True)
class Budget:
    """Where a collection ends. A call is sent only as long as what was spent before it is below each limit.

    Raises:
        ValueError: a limit out of range, or a limit of the cost without a price.
    """

    records: int | None = None
    """Records in the file."""
    max_calls: int | None = None
    max_tokens: int | None = None
    """Of prompts and answers."""
    max_cost: float | None = None
    """Money, in the currency of the prices."""
    price_in: float = 0.0
    """Of a million tokens of prompts."""
    price_out: float = 0.0
    """Of a million tokens of answers."""

    def __post_init__(self) -> None:
        for name in ("records", "max_calls", "max_tokens", "max_cost"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: want more than 0, not {value}")
        for name in ("price_in", "price_out"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: want 0 or more, not {getattr(self, name)}")
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise naming(
                ValueError,
                ("max_cost", None),
                " needs the prices of a million tokens: ",
                ("price_in", None),
                " and ",
                ("price_out", None),
            )

    @property
    def is_set(self) -> bool:
        """Whether anything ends a collection."""
        return any(
            limit is not None for limit in (self.records, self.max_calls, self.max_tokens, self.max_cost)
        )

    def price(self, prompt_tokens: int, answer_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.price_in + answer_tokens * self.price_out) / 1e6

    def is_spent(self, prompt_tokens: int, answer_tokens: int) -> bool:
        """Whether so many tokens reach a limit."""
        if self.max_tokens is not None and prompt_tokens + answer_tokens >= self.max_tokens:
            return True
        return self.max_cost is not None and self.price(prompt_tokens, answer_tokens) >= self.max_cost
