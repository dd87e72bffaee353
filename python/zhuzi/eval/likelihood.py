"""How likely a model holds continuations of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: A context and what may follow it, as ids.
Request = tuple[Sequence[int], Sequence[Sequence[int]]]


def log_likelihoods(
    model: Any,
    requests: Sequence[Request],
    *,
    batch: int = 8,
    context: int | None = None,
    done: Callable[[int], None] = lambda number: None,
) -> list[list[float]]:
    """The natural logarithm of the probability of each continuation after its context.

    Contexts that are longer than `context` tokens, continuation included, lose their first ones, as in
    lm-evaluation-harness. Where all continuations of a request are single tokens, one forward answers them
    all. The results do not depend on `batch` (beyond rounding): shorter rows are padded on the right.

    Args:
        model: a causal language model of transformers, on any device, in evaluation mode.
        batch: rows in a forward.
        done: told how many of the requests are answered.
    """
    import torch

    device = next(model.parameters()).device
    rows = [row for i, request in enumerate(requests) for row in _rows(i, request, context)]
    found: list[list[float]] = [[0.0] * len(continuations) for _, continuations in requests]
    # The longest first: memory is at its peak in the first forward, and rows of one length share a forward.
    rows.sort(key=lambda row: -len(row[1]))
    answered = set()
    for begin in range(0, len(rows), batch):
        part = rows[begin : begin + batch]
        for (i, _, choices), values in zip(part, _forward(model, part, device, torch), strict=True):
            for choice, value in zip(choices, values, strict=True):
                found[i][choice] = value
            answered.add(i)
        done(len(answered))
    return found


# Which request; the ids that are read; which of its continuations (with the ids to find at the end).
_Row = tuple[int, list[int], dict[int, Sequence[int]]]


def _rows(i: int, request: Request, context: int | None) -> Iterator[_Row]:
    before, continuations = request
    shared = all(len(ids) == 1 for ids in continuations)
    groups = [dict(enumerate(continuations))] if shared else [{c: ids} for c, ids in enumerate(continuations)]
    for group in groups:
        ids = next(iter(group.values()))
        read = [*before, *ids][:-1]
        yield i, read if context is None else read[-context:], group


def _forward(model: Any, rows: Sequence[_Row], device: torch.device, torch: Any) -> Iterator[list[float]]:
    """The values of each row's continuations, from one forward of all rows."""
    longest = max(len(read) for _, read, _ in rows)
    inputs = torch.tensor([[*read, *[0] * (longest - len(read))] for _, read, _ in rows], device=device)
    places = [range(len(read) - len(next(iter(choices.values()))), len(read)) for _, read, choices in rows]
    kept = sorted({place for row in places for place in row})
    with torch.no_grad():
        logits = model(
            input_ids=inputs, use_cache=False, logits_to_keep=torch.tensor(kept, device=device)
        ).logits
    at = {place: i for i, place in enumerate(kept)}
    for row, (_, _, choices) in enumerate(rows):
        scores = logits[row, [at[place] for place in places[row]]].float().log_softmax(-1)
        yield [sum(float(scores[i, id]) for i, id in enumerate(ids)) for ids in choices.values()]
