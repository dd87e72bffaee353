"""How a run goes: log.jsonl, and a bar on a terminal or a line every few seconds elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhuzi._process import is_main
from zhuzi._show import count
from zhuzi.record.disk import naming_full_disk
from zhuzi.train.measures import best, changes, since_best
from zhuzi.train.progress import bar, tell
from zhuzi.train.state import TrainCallback, TrainState

#: Seconds between lines where there is no bar.
EVERY = 5.0
#: Seconds for which a bar shows the same of an evaluation.
EVERY_OF_A_BAR = 1.0


class LogProgress(TrainCallback):
    """Writes OUT/log.jsonl, and shows the same: loss, rate, gradient norm, speed, memory, time left."""

    def __init__(self, path: Path, progress: bool | None = None) -> None:
        self.path, self.progress = path, progress
        self.bar: Any = None
        self._told = 0.0
        self._evaluating: float | None = None  # when something was said of the evaluation that goes on
        self._postfix = ""
        self._state = TrainState(steps=0)

    def on_train_begin(self, state: TrainState) -> None:
        self._state = state
        if not is_main():
            return
        # A killed run may have logged steps after its last checkpoint: those are trained again.
        entries = [*state.history, *({"step": e["step"], "evaluation": e} for e in state.evaluations)]
        entries.sort(key=lambda entry: entry["step"])
        self.path.write_text("".join(map(_line, entries)), encoding="utf-8")
        self.bar = bar(state.steps, state.step, self.progress)
        if state.step:
            tell(f"resumes after step {state.step:,} of {state.steps:,}")

    def on_step_end(self, state: TrainState) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_log(self, state: TrainState) -> None:
        if not is_main():
            return
        entry = state.history[-1]
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        if self.bar is not None:
            self._postfix = _shown(entry)
            self.bar.set_postfix_str(self._postfix)
        elif self.progress is not False:
            now = time.monotonic()
            if now - self._told < EVERY and state.step < state.steps:
                return
            self._told = now
            tell(f"step {entry['step']:,} of {state.steps:,}: {_shown(entry)}")

    def evaluating(self, what: str) -> None:
        """Say what an evaluation does, if it goes on for longer than a moment."""
        if not is_main() or self.progress is False:
            return
        now, every = time.monotonic(), EVERY if self.bar is None else EVERY_OF_A_BAR
        if self._evaluating is None:
            self._evaluating = now
        if now - self._evaluating < every:
            return
        self._evaluating = now
        if self.bar is not None:
            self.bar.set_postfix_str(what)
        else:
            tell(f"step {self._state.step:,}: {what}")

    def on_evaluate(self, state: TrainState) -> None:
        self._evaluating = None
        if not is_main():
            return
        if self.bar is not None:
            self.bar.set_postfix_str(self._postfix)
        entry = state.evaluations[-1]
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": entry["step"], "evaluation": entry}))
        if self.progress is not False:
            parts = []
            for name, start, here in changes(state.evaluations):
                known = f"loss {here:.4f}" if name == "loss" else f"{name} {here:.4f} bits per byte"
                parts.append(known if start is None else f"{known} ({here - start:+.4f} since the start)")
            if "seconds" in entry:
                parts.append(f"{entry['seconds']:,.1f} s")
            tell(f"step {entry['step']:,}, evaluation: {', '.join(parts)}")

    def on_train_end(self, state: TrainState) -> None:
        lowest = best(state.evaluations)
        if state.step >= state.steps or lowest is None or not is_main():
            return
        step = lowest["step"]
        where = (
            "the model as it was before" if step == 0 else self.path.parent / f"checkpoints/checkpoint-{step}"
        )
        tell(
            f"ended after step {state.step:,} of {state.steps:,}: no lower loss in "
            f"{count(since_best(state.evaluations), 'evaluation')} (patience); the result is that of step "
            f"{state.step:,}, the best was at step {step:,} ({where})"
        )

    def close(self) -> None:
        """Leave the line of the bar, however training ended."""
        if self.bar is not None:
            self.bar.close()


def _shown(entry: Mapping[str, Any]) -> str:
    parts = [
        f"loss {entry['loss']:.4f}",
        f"lr {entry['learning_rate']:.2e}",
        f"grad norm {entry['gradient_norm']:.2f}",
        f"{entry['tokens_per_second']:,.0f} tokens/s",
    ]
    if "mfu" in entry:
        parts.append("MFU -" if entry["mfu"] is None else f"MFU {entry['mfu']:.1%}")
    parts.append(f"{entry['memory_bytes'] / 2**30:.1f} GiB")
    if entry["seconds_left"]:
        parts.append(f"{_clock(entry['seconds_left'])} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has no infinity, which is the norm of a step that fp16 skips.
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(known) + "\n"
