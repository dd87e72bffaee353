"""Where a training run is, and who is told: the state, and the callbacks that see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAVED = ("step", "tokens", "history", "evaluations", "loss_sum", "loss_steps")


@dataclass
class TrainState:
    """Where a run is. Callbacks read it; what they write into it is not defined."""

    steps: int
    """Optimiser steps of the whole run."""
    model: Any = None
    """The model, adapters included."""
    step: int = 0
    """Optimiser steps done."""
    tokens: int = 0
    """Tokens that the model has seen, over all processes; padding not counted."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """What was logged, an entry per `log_every` steps: `step`, `loss` (the mean since the entry before, nats
    per token), `learning_rate` (of the step), `gradient_norm` (before clipping), `tokens_per_second` (in
    steps), `mfu` (on a GPU), `memory_bytes` (the peak), `seconds_left` (None after a first
    step that compiled the layers)."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """An entry per evaluation, the first before step 1: `step`, `loss` (nats per token of the held-out
    examples), `bits_per_byte` by name (of `held out`, and of the files of `evaluate.texts`), and the
    `seconds` it took."""
    loss_sum: float = 0.0
    loss_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {key: getattr(self, key) for key in _SAVED}

    def update(self, saved: Mapping[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        for key in _SAVED:
            setattr(self, key, saved[key])


class TrainCallback:
    """Told how a run goes, in every process. Subclass it and override what is needed."""

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first step; `state.step` is not 0 in a run that is resumed."""

    def on_step_begin(self, state: TrainState) -> None:
        """Before a step; `state.step` steps are done."""

    def on_step_end(self, state: TrainState) -> None:
        """After a step, which `state.step` counts."""

    def on_log(self, state: TrainState) -> None:
        """After an entry was added to `state.history`."""

    def on_evaluate(self, state: TrainState) -> None:
        """After an entry was added to `state.evaluations`."""

    def on_save(self, state: TrainState, checkpoint: Path) -> None:
        """After a checkpoint is complete."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last step and its checkpoint."""


def require_callbacks(callbacks: Sequence[Any]) -> None:
    """Raise `TypeError` for what is no `TrainCallback`, such as one of transformers'."""
    for callback in callbacks:
        if not isinstance(callback, TrainCallback):
            raise TypeError(
                f"{type(callback).__name__} is no zhuzi.train.TrainCallback (transformers' are not taken); "
                "subclass TrainCallback, whose methods have the same names and take the state alone"
            )
