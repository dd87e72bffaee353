"""What evaluations say of a run: the best of them, when they stop to improve, and how far from the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def best(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The evaluation with the lowest loss on held-out examples, the first of equal ones."""
    found = [entry for entry in evaluations if "loss" in entry]
    return min(found, key=lambda entry: entry["loss"]) if found else None


def is_over(evaluations: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """True if the last `patience` evaluations were no better than one before them."""
    return patience is not None and since_best(evaluations) >= patience


def since_best(evaluations: Sequence[dict[str, Any]]) -> int:
    """The evaluations after the best; none without a loss."""
    lowest = best(evaluations)
    return 0 if lowest is None else len(evaluations) - 1 - evaluations.index(lowest)


def figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation by name: `loss` of held-out examples, then bits per byte by text."""
    return {**({"loss": entry["loss"]} if "loss" in entry else {}), **entry["bits_per_byte"]}


def changes(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None, float]]:
    """Name, figure at the start and figure now, of what was measured last.

    The start is the evaluation before the first step; without one (in a run begun by an earlier version, or
    at the start itself) it is None.
    """
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    start = figures(first) if first["step"] == 0 and last is not first else {}
    return [(name, start.get(name), value) for name, value in figures(last).items()]
