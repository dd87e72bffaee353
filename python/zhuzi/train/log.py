"""How a run goes: log.jsonl, and a bar on a terminal or a line every few seconds elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zhuzi._process import is_main
from zhuzi.record.disk import naming_full_disk
from zhuzi.train.progress import bar, tell
from zhuzi.train.state import TrainCallback, TrainState

#: Seconds between lines where there is no bar.
EVERY = 5.0


class LogProgress(TrainCallback):
    """Writes OUT/log.jsonl, and shows loss, learning rate, gradient norm, speed, memory and time left."""

    def __init__(self, path: Path, progress: bool | None = None) -> None:
        self.path, self.progress = path, progress
        self.bar: Any = None
        self._started = self._told = 0.0
        self._first = 0

    def on_train_begin(self, state: TrainState) -> None:
        if not is_main():
            return
        # A killed run may have logged steps after its last checkpoint: those are trained again.
        entries = [*state.history, *({"step": e["step"], "evaluation": e} for e in state.evaluations)]
        entries.sort(key=lambda entry: entry["step"])
        self.path.write_text("".join(map(_line, entries)), encoding="utf-8")
        self.bar = bar(state.steps, state.step, self.progress)
        self._started, self._first = time.monotonic(), state.step
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
            self.bar.set_postfix_str(_shown(entry))
        elif self.progress is not False:
            now = time.monotonic()
            if now - self._told < EVERY and state.step < state.steps:
                return
            self._told = now
            left = (now - self._started) / (state.step - self._first) * (state.steps - state.step)
            shown = f"step {entry['step']:,} of {state.steps:,}: {_shown(entry)}"
            tell(f"{shown}, {_clock(left)} left" if state.step < state.steps else shown)

    def on_evaluate(self, state: TrainState) -> None:
        if not is_main():
            return
        entry = state.evaluations[-1]
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": entry["step"], "evaluation": entry}))
        if self.progress is not False:
            parts = [f"loss {entry['loss']:.4f}"] if "loss" in entry else []
            parts += [f"{name} {bits:.4f} bits per byte" for name, bits in entry["bits_per_byte"].items()]
            if self.bar is not None:
                self.bar.clear()  # or the line would follow the bar in its line
            tell(f"step {entry['step']:,}, evaluation: {', '.join(parts)}")

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
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(entry: Mapping[str, Any]) -> str:
    # JSON has no infinity, which is the norm of a step that fp16 skips.
    known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(known) + "\n"
