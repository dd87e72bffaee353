"""Which examples each step trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zhuzi.train.data import IGNORED
from zhuzi.train.order import Shuffle
from zhuzi.train.recipe import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one forward: [sequences, tokens] each, and `tokens`, their number, where no mask tells it."""

    inputs: dict[str, torch.Tensor]

    @property
    def labels_that_count(self) -> int:
        """Positions with a loss: labels that are not ignored, but the first of each sequence."""
        return int((self.inputs["labels"][:, 1:] != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        if "tokens" in self.inputs:
            return int(self.inputs["tokens"])
        mask = self.inputs.get("attention_mask")
        return self.inputs["input_ids"].numel() if mask is None else int(mask.sum())

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The model's inputs on a device."""
        inputs = {name: tensor for name, tensor in self.inputs.items() if name != "tokens"}
        return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


class Batches:
    """The examples of each step: a function of the seed and the step, so that a run resumes at any step.

    Each epoch is a permutation of its own, which is computed, not stored. A step takes the next `batch_size`
    examples, across the end of an epoch too; they are divided among the processes, and into micro batches:
    which examples they are depends on neither.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[Any], dict[str, torch.Tensor]],
        recipe: Recipe,
        micro: int,
        *,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.dataset, self.collate, self.seed = dataset, collate, recipe.seed
        self.size, self.micro = recipe.batch_size, micro
        share = recipe.batch_size // processes
        self.part = range(process * share, (process + 1) * share)
        self._epoch, self._order = -1, Shuffle(0)

    def of_step(self, step: int) -> list[MicroBatch]:
        """This process's micro batches of a step, counted from 0."""
        examples = [self.dataset[self._example(step * self.size + i)] for i in self.part]
        return [
            MicroBatch(self.collate(examples[i : i + self.micro]))
            for i in range(0, len(examples), self.micro)
        ]

    def _example(self, position: int) -> int:
        epoch, i = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, Shuffle(len(self.dataset), self.seed, "epoch", epoch)
        return self._order[i]
