"""A run that ends in the middle."""

from __future__ import annotations

from zhuzi.train import TrainCallback, TrainState


class Stop(Exception):  # noqa: N818  # nothing went wrong
    """What a test raises in the middle."""


class StopAt(TrainCallback):
    """Raises before the step after `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, state: TrainState) -> None:
        if state.step == self.step:
            raise Stop
