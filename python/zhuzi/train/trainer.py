"""transformers' Trainer with checkpoints that are whole or absent, and losses that are finite.

The stock Trainer writes a checkpoint in place: killed while saving, it silently resumed with other losses (no
optimizer or RNG file) or crashed (half an adapter).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState

from zhuzi.errors import TrainingError
from zhuzi.model.weights import load_tensors
from zhuzi.record.disk import FullDiskError, naming_full_disk
from zhuzi.record.output import replace_folder
from zhuzi.train.base import trainable
from zhuzi.train.progress import bar, tell

_WEIGHTS = "trainable.safetensors"


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed by mypy
    """Trains one stage. A checkpoint holds what trains, not the frozen base, and is renamed into place."""

    def __init__(self, *args: Any, keep_checkpoints: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # it prints dicts; LogLosses logs a line
        self._keep = keep_checkpoints
        self._writing: Path | None = None

    def run(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint if there is one."""
        if checkpoint is not None and step_of(checkpoint) >= self.args.max_steps:
            # Killed between its last step and its report. The stock Trainer would train one more step.
            self._load_from_checkpoint(str(checkpoint))
            self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        else:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self.state.global_step + 1}: {self._not_a_number('loss', loss.item())}"
            )
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        # Under fp16 the gradient scaler expects infinities; it skips the step and lowers its scale.
        if norm is not None and self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(
                f"step {self.state.global_step + 1}: {self._not_a_number('gradient', float(norm))}"
            )
        return norm

    @staticmethod
    def _not_a_number(what: str, value: float) -> str:
        return (
            f"the {what} is {value}; this step changed nothing, and no checkpoint has it. Lower "
            "learning_rate or raise warmup, and start again with --overwrite"
        )

    # A checkpoint is written under another name and renamed, so that a kill leaves the previous one intact.

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        final = folder / f"checkpoint-{self.state.global_step}"
        self._writing = folder / f".{final.name}.partial"
        if self.args.should_save:
            remove_partial(folder)
            self._writing.mkdir()
        self.accelerator.wait_for_everyone()
        try:
            with naming_full_disk(final, written=self._writing):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                replace_folder(self._writing / final.name, final)
                self._writing.rmdir()
                for old in checkpoints(folder)[: -self._keep]:
                    shutil.rmtree(old)
        except FullDiskError:
            if self.args.should_save:
                remove_partial(folder)  # it may fill the disk; the previous checkpoint is whole
            raise
        finally:
            self._writing = None

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        save_file({name: p.detach().contiguous() for name, p in trainable(model)}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        parameters = dict(trainable(self.model if model is None else model))
        saved = load_tensors(Path(resume_from_checkpoint) / _WEIGHTS)
        if {n: p.shape for n, p in parameters.items()} != {n: t.shape for n, t in saved.items()}:
            raise TrainingError(f"{resume_from_checkpoint}: holds other parameters than the recipe trains")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(
        (p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)), key=step_of
    )


def step_of(checkpoint: Path) -> int:
    """The optimiser steps done when a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def remove_partial(folder: Path) -> None:
    """Remove what is left of a checkpoint that was being written or replaced when the process was killed."""
    for path in folder.glob(".checkpoint-*"):
        shutil.rmtree(path)


class OnSave(TrainerCallback):  # type: ignore[misc]
    """Calls a function after each checkpoint."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.call()


class LogLosses(TrainerCallback):  # type: ignore[misc]
    """Writes OUT/log.jsonl and shows progress: a bar on a terminal, log lines elsewhere."""

    def __init__(self, path: Path, progress: bool | None = None) -> None:
        self.path, self.progress = path, progress
        self.bar: Any = None
        self.begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        # A killed run may have logged steps after its last checkpoint; they are trained again.
        self.path.write_text("".join(_line(entry) for entry in losses(state)), encoding="utf-8")
        self.begun = True
        self.bar = bar(state.max_steps, state.global_step, self.progress)
        if state.global_step:
            tell(f"resumes after step {state.global_step:,} of {state.max_steps:,}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint does not have the sum since the last log line. Logging at each checkpoint makes the
        # lines of a resumed run equal to those of an uninterrupted one.
        if control.should_save:
            control.should_log = True
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        if not self.begun or "loss" not in entry:
            return
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{entry['loss']:.4f}")
        elif self.progress is not False:
            tell(f"step {entry['step']:,} of {state.max_steps:,}: loss {entry['loss']:.4f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def losses(state: Any) -> list[dict[str, Any]]:
    """The log entries that have a loss (the mean over the steps since the previous entry)."""
    return [entry for entry in state.log_history if "loss" in entry]


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps({key: entry[key] for key in ("step", "loss", "learning_rate")}) + "\n"
