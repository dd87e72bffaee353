"""The training loop: batch, forward, backward, clip, step, log, evaluate, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator

from zhuzi.errors import OVERWRITE, TrainingError, TrainingInterrupted, naming
from zhuzi.train import checkpoint
from zhuzi.train.base import compute_dtype, trainable
from zhuzi.train.batches import Batches
from zhuzi.train.checks import micro_batch, steps_of
from zhuzi.train.evaluation import Evaluation
from zhuzi.train.interrupt import Interrupts
from zhuzi.train.layers import naming_compile_errors
from zhuzi.train.measures import best, is_over
from zhuzi.train.recipe import Recipe
from zhuzi.train.run import Run
from zhuzi.train.schedule import learning_rate_factor, make_optimizer, set_learning_rate
from zhuzi.train.speed import Speed
from zhuzi.train.state import TrainCallback, TrainState

_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


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
        compute = compute_dtype()
        self.accelerator = Accelerator(mixed_precision=_PRECISION[compute], cpu=compute == torch.float32)
        self.accelerator.gradient_accumulation_steps = 1  # a launcher's setting would divide the loss again
        self.recipe, self.run, self.callbacks, self.evaluation = recipe, run, callbacks, evaluation
        self.named = trainable(model)
        self.state = TrainState(steps=steps_of(recipe, len(dataset)), model=model)
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(self.named, recipe))
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        micro, _ = micro_batch(recipe)
        self.batches = Batches(dataset, collate, recipe, micro, processes=processes, process=process)
        self.speed = Speed(model, recipe.sequence_length, processes)
        self.resumed_from = self._resume()

    def train(self) -> TrainState:
        """Do the steps that are left.

        Raises:
            TrainingError: a loss or gradient that is no finite number.
            TrainingInterrupted: a signal came, and a checkpoint was written.
            FullDiskError: no room for a checkpoint.
        """
        self.model.train()
        self._tell("on_train_begin")
        with Interrupts() as interrupts:
            if self.state.step == 0:
                self._evaluate()  # what later evaluations are compared with
            while not self._is_finished():
                self._tell("on_step_begin")
                factor = learning_rate_factor(self.recipe, self.state.steps, self.state.step)
                set_learning_rate(self.optimizer, factor)
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
        labels, tokens = self._over_processes(counts).tolist()
        total = torch.zeros((), device=self.accelerator.device)
        for i, batch in enumerate(micro_batches):
            inputs = batch.to(self.accelerator.device)
            with self._sync(i == len(micro_batches) - 1):
                loss = self.model(**inputs, num_items_in_batch=labels).loss
                # DistributedDataParallel averages over processes what is here a share of a sum.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        loss = self._over_processes(total).item()
        self._require_finite("loss", loss)
        norm = self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.tokens += tokens
        self.speed.add(tokens)
        return loss, norm

    def _clip(self) -> float:
        """Scale the gradients down to the recipe's norm; their norm before that."""
        bound = self.recipe.max_grad_norm or float("inf")
        norm = float(self.accelerator.clip_grad_norm_([p for _, p in self.named], bound))
        # Under fp16 the scaler expects infinities, skips the step and halves its scale. At a scale below 1 it
        # was not the scale that made the gradient overflow.
        scaler = self.accelerator.scaler
        if scaler is None or (norm - norm != 0 and scaler.get_scale() < 1):
            self._require_finite("gradient", norm)
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if value - value != 0:  # infinite, or not a number
            raise naming(
                TrainingError,
                f"step {self.state.step + 1}: the {what} is {value}; this step changed nothing, and no "
                "checkpoint holds it. Lower learning_rate or raise warmup, and start again with ",
                OVERWRITE,
            )

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
        entry = self.evaluation.measure(
            self.state.model,
            self.accelerator.device,
            self._over_processes,
            processes=self.accelerator.num_processes,
            process=self.accelerator.process_index,
        )
        self.state.evaluations.append({"step": self.state.step, **entry})
        self._tell("on_evaluate")
        return best(self.state.evaluations) is self.state.evaluations[-1]

    def _is_finished(self) -> bool:
        """True after the last step, or when evaluations have stopped to improve."""
        settings = self.recipe.evaluate
        patience = None if settings is None else settings.patience
        return self.state.step >= self.state.steps or is_over(self.state.evaluations, patience)

    def _save(self) -> Any:
        lowest = best(self.state.evaluations)
        saved = checkpoint.save(
            self.run.checkpoints,
            self.state,
            self.named,
            self.optimizer,
            scaler=self.accelerator.scaler,
            process=self.accelerator.process_index,
            wait=self.accelerator.wait_for_everyone,
            keep=self.recipe.keep_checkpoints,
            also=None if lowest is None else lowest["step"],
        )
        for callback in self.callbacks:
            callback.on_save(self.state, saved)
        return saved

    def _resume(self) -> int | None:
        """Load the last checkpoint; the step it was written after."""
        if self.accelerator.is_main_process:
            checkpoint.remove_partial(self.run.checkpoints)
        self.accelerator.wait_for_everyone()
        last = max(checkpoint.checkpoints(self.run.checkpoints), key=checkpoint.step_of, default=None)
        if last is None:
            return None
        process = self.accelerator.process_index
        scaler = self.accelerator.scaler
        processes = self.accelerator.num_processes
        checkpoint.load(
            *(last, self.state, self.named, self.optimizer),
            scaler=scaler,
            process=process,
            processes=processes,
        )
        return self.state.step

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.state.steps

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.state)

    def _agreed(self, here: bool) -> bool:
        """True if it is true in any process."""
        if self.accelerator.num_processes == 1:
            return here
        return bool(self._over_processes(torch.tensor(int(here))))

    def _over_processes(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        total: torch.Tensor = self.accelerator.reduce(value.to(self.accelerator.device), "sum")
        return total

    def _sync(self, last: bool) -> Any:
        """Processes exchange gradients once a step, at its last micro batch."""
        return self.accelerator.no_sync(self.model) if not last else nullcontext()
