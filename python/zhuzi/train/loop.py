"""The training loop: batch, forward, backward, clip, step, log, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zhuzi.errors import OVERWRITE, TrainingError, TrainingInterrupted, naming
from zhuzi.train import checkpoint
from zhuzi.train.base import trainable
from zhuzi.train.batches import Batches
from zhuzi.train.checks import micro_batch, steps_of, why_nothing_trains
from zhuzi.train.evaluation import Evaluation
from zhuzi.train.interrupt import Interrupts
from zhuzi.train.layers import are_compiled, naming_compile_errors
from zhuzi.train.measures import best, is_over
from zhuzi.train.processes import join
from zhuzi.train.progress import tell, warn
from zhuzi.train.recipe import Recipe
from zhuzi.train.run import Run
from zhuzi.train.schedule import learning_rate_factor, set_learning_rate
from zhuzi.train.speed import Speed
from zhuzi.train.state import TrainCallback, TrainState


class Loop:
    """Trains a model as a recipe says, from the last checkpoint of a run if there is one."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        run: Run,
        dataset: Any,
        collate: Callable[[Any], dict[str, torch.Tensor]],
        callbacks: Sequence[TrainCallback],
        evaluation: Evaluation | None = None,
    ) -> None:
        self.processes = join(recipe)
        self.recipe, self.run, self.callbacks, self.evaluation = recipe, run, callbacks, evaluation
        self.state = TrainState(steps=steps_of(recipe, len(dataset)), model=model)
        if why := why_nothing_trains(recipe, self.state.steps):
            warn(why)
        last = self._last_checkpoint()
        if last is not None:
            checkpoint.load_weights(last, trainable(model))
        self.processes.prepare(model)
        processes, process = self.processes.number, self.processes.process
        micro, _ = micro_batch(recipe)
        self.batches = Batches(dataset, collate, recipe, micro, processes=processes, process=process)
        self.speed = Speed(model, recipe.sequence_length, processes)
        self.resumed_from = None if last is None else self._resume(last)

    def train(self) -> TrainState:
        """Do the steps that are left.

        Raises:
            TrainingError: a loss or gradient that is no finite number.
            TrainingInterrupted: a signal came, and a checkpoint was written.
            FullDiskError: no room for a checkpoint.
        """
        self.processes.model.train()
        self._tell("on_train_begin")
        with Interrupts() as interrupts:
            if self.state.step == 0:
                self._evaluate()  # what later evaluations are compared with
            if are_compiled(self.state.model) and not self._is_finished():
                tell("compiling the layers; the first step waits for it")
            while not self._is_finished():
                self._tell("on_step_begin")
                factor = learning_rate_factor(self.recipe, self.state.steps, self.state.step)
                set_learning_rate(self.processes.optimizer, factor)
                with self.speed.step(), naming_compile_errors(lambda: interrupts.received):
                    loss, norm = self._step()
                self.state.step += 1
                self.state.loss_sum += loss
                self.state.loss_steps += 1
                self._tell("on_step_end")
                if self._is_due(self.recipe.log_every):
                    self._log(norm, self.recipe.learning_rate * factor)
                improved = self._evaluate()
                if self._is_finished() and self.state.loss_steps:  # patience has ended the run
                    self._log(norm, self.recipe.learning_rate * factor)
                stop = self._agreed(interrupts.received is not None)
                if stop or improved or self._is_due(self.recipe.save_every) or self._is_finished():
                    saved = self._save()
                    if stop and not self._is_finished():
                        raise TrainingInterrupted(
                            f"{interrupts.received or 'a signal'}: stopped after step {self.state.step:,} of "
                            f"{self.state.steps:,}, saved in {saved}; the same command resumes from there"
                        )
        self._tell("on_train_end")
        return self.state

    def _step(self) -> tuple[float, float]:
        """One optimiser step: its loss, the mean over the tokens of all processes, and its gradient norm."""
        step = self.state.step
        micro_batches = self.batches.of_step(step)
        counts = torch.tensor([[b.labels_that_count, b.tokens] for b in micro_batches]).sum(0)
        labels, tokens = self.processes.sum(counts).tolist()
        total = torch.zeros((), device=self.processes.device)
        for i, batch in enumerate(micro_batches):
            share = partial(self._share, batch.to(self.processes.device), labels)
            total += self.processes.backward(share, last=i == len(micro_batches) - 1)
        loss = self.processes.sum(total).item() / self.processes.number
        self._require_finite("loss", loss)
        norm = self.processes.step(partial(self._require_finite, "gradient"))
        self.state.tokens += tokens
        self.speed.add(tokens)
        return loss, norm

    def _share(self, inputs: dict[str, torch.Tensor], labels: int) -> torch.Tensor:
        """A micro batch's share of the mean over the step's `labels`, times the processes that average it."""
        loss: torch.Tensor = self.processes.model(**inputs, num_items_in_batch=labels).loss
        return loss * self.processes.number

    def _require_finite(self, what: str, value: float) -> None:
        if value - value != 0:  # infinite, or not a number
            said = (
                f"step {self.state.step + 1}: the {what} is {value}; this step changed nothing, and no "
                "checkpoint holds it. Lower learning_rate or raise warmup, and start again"
            )
            if not self.run.is_claimed:
                raise TrainingError(said)
            raise naming(TrainingError, f"{said} with ", OVERWRITE)

    def _log(self, norm: float, rate: float) -> None:
        """Add an entry to the history."""
        state = self.state
        state.history.append(
            {
                "step": state.step,
                "loss": state.loss_sum / state.loss_steps,
                "learning_rate": rate,
                "gradient_norm": norm,
                **self.speed.entry(state.steps - state.step),
            }
        )
        state.loss_sum, state.loss_steps = 0.0, 0
        self._tell("on_log")

    def _evaluate(self) -> bool:
        """Evaluate if it is time to; true if the model is the best so far."""
        settings = self.recipe.evaluate
        if settings is None or self.evaluation is None or not self._is_due(settings.every):
            return False
        parts, begun = self.processes, time.perf_counter()
        entry = self.evaluation.measure(
            self.state.model,
            parts.device,
            parts.sum if parts.shares_evaluation else lambda sums: sums,
            processes=parts.number if parts.shares_evaluation else 1,
            process=parts.process if parts.shares_evaluation else 0,
        )
        self.state.evaluations.append(
            {"step": self.state.step, **entry, "seconds": round(time.perf_counter() - begun, 1)}
        )
        self._tell("on_evaluate")
        return best(self.state.evaluations) is self.state.evaluations[-1]

    def _is_finished(self) -> bool:
        """True after the last step, or when evaluations have stopped to improve."""
        settings = self.recipe.evaluate
        patience = None if settings is None else settings.patience
        return self.state.step >= self.state.steps or is_over(self.state.evaluations, patience)

    def _save(self) -> Any:
        lowest = best(self.state.evaluations)
        parts = self.processes
        scaler = None if parts.scaler is None else parts.scaler.state_dict()
        saved = checkpoint.save(
            self.run.checkpoints,
            self.state,
            parts.weights(),
            {"parameters": parts.states(), "scaler": scaler},
            process=parts.process,
            wait=parts.wait,
            keep=self.recipe.keep_checkpoints,
            also=None if lowest is None else lowest["step"],
        )
        for callback in self.callbacks:
            callback.on_save(self.state, saved)
        return saved

    def _last_checkpoint(self) -> Path | None:
        if self.processes.process == 0:
            checkpoint.remove_partial(self.run.checkpoints)
        last = max(checkpoint.checkpoints(self.run.checkpoints), key=checkpoint.step_of, default=None)
        if last is not None and self.processes.process == 0:
            checkpoint.require_whole(last)
        self.processes.wait()
        return last

    def _resume(self, last: Path) -> int:
        """Put back what a checkpoint holds beside the weights; the step it was written after."""
        parts = self.processes
        names = [name for name, _ in parts.named]
        held = checkpoint.load(last, self.state, names, process=parts.process, processes=parts.number)
        parts.set_states(held["parameters"])
        if parts.scaler is not None and held["scaler"] is not None:
            parts.scaler.load_state_dict(held["scaler"])
        return self.state.step

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.state.steps

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.state)

    def _agreed(self, here: bool) -> bool:
        """True if it is true in any process."""
        return bool(self.processes.sum(torch.tensor(int(here))))
