"""Evaluation during training: held-out examples, and texts that should not be forgotten."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from zhuzi._show import count
from zhuzi.errors import TrainingError
from zhuzi.eval.bits import bits_per_byte
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.batches import MicroBatch
from zhuzi.train.data import IGNORED
from zhuzi.train.order import Rest, Shuffle
from zhuzi.train.recipe import EvaluateRecipe


class Subset:
    """Some examples of a dataset."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Any:
        return self.dataset[self.indices[i]]

    def tokens(self, i: int) -> int:
        """The number of ids of record i."""
        tokens: int = self.dataset.tokens(self.indices[i])
        return tokens


def split(dataset: Any, settings: EvaluateRecipe | None, seed: int) -> tuple[Any, Subset | None]:
    """What trains, and what is held out: a share drawn by the seed.

    Raises:
        TrainingError: too few examples for both.
    """
    if settings is None or settings.share == 0:
        return dataset, None
    if len(dataset) < 2:
        raise TrainingError("evaluate.share: one example cannot be split; give more data, or share: 0")
    most = min(max(1, round(settings.share * len(dataset))), settings.max_examples, len(dataset) - 1)
    held = sorted(Shuffle(len(dataset), seed, "held out")[:most])
    return Subset(dataset, Rest(0, len(dataset), held)), Subset(dataset, held)


class Evaluation:
    """Measures a model in evaluation mode; draws no random numbers, so that training is not changed by it."""

    def __init__(
        self,
        held_out: Subset | None,
        texts: Mapping[str, list[str]],
        collate: Callable[[Any], dict[str, torch.Tensor]],
        tokenizer: Tokenizer,
        *,
        micro: int,
        context: int,
        told: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`told` is given what is measured, and how far it is, from time to time."""
        self.held_out, self.texts = held_out, texts
        self.collate, self.tokenizer = collate, tokenizer
        self.micro, self.context, self.told = micro, context, told

    def measure(
        self,
        model: Any,
        device: torch.device,
        over_processes: Callable[[torch.Tensor], torch.Tensor],
        *,
        processes: int,
        process: int,
    ) -> dict[str, Any]:
        """`loss` (nats per token) and `bits_per_byte` of the held-out examples, and of each text by its name.

        The examples and texts are divided among the processes; `over_processes` sums.
        """
        self.told("evaluating")
        model.eval()
        sums = torch.zeros(3 + 2 * len(self.texts), dtype=torch.float64)
        with torch.no_grad(), eager():
            sums[:3] = self._held_out_sums(model, device, range(process, len(self.held_out or ()), processes))
            for i, (name, texts) in enumerate(self.texts.items()):
                mine = texts[process::processes]

                def tell(done: int, of_mine: int, name: str = name, total: int = len(texts)) -> None:
                    done = min(done * processes, total)  # the others are about as far
                    self.told(f"evaluating {name}, {done:,} of {count(total, 'document')}")

                if mine:
                    found = bits_per_byte(model, self.tokenizer, mine, context=self.context, progress=tell)
                    sums[3 + 2 * i], sums[4 + 2 * i] = found.bits, found.bytes
        model.train()
        nats, tokens, size, *of_texts = over_processes(sums.float()).tolist()
        entry: dict[str, Any] = {"bits_per_byte": {}}
        if tokens:
            entry = {"loss": nats / tokens, "bits_per_byte": {"held out": nats / math.log(2) / max(size, 1)}}
        for i, name in enumerate(self.texts):
            entry["bits_per_byte"][name] = of_texts[2 * i] / of_texts[2 * i + 1]
        return entry

    def _held_out_sums(self, model: Any, device: torch.device, mine: Sequence[int]) -> torch.Tensor:
        """Nats, predicted tokens and the UTF-8 bytes of their text, over some of the examples."""
        nats = tokens = size = 0.0
        for begin in range(0, len(mine), self.micro):
            assert self.held_out is not None
            batch = MicroBatch(self.collate([self.held_out[i] for i in mine[begin : begin + self.micro]]))
            done = begin * len(self.held_out) // len(mine)  # the other processes are about as far
            self.told(f"evaluating, {done:,} of {count(len(self.held_out), 'held-out example')}")
            nats += float(model(**batch.to(device), num_items_in_batch=1).loss)
            tokens += batch.labels_that_count
            for labels in batch.inputs["labels"][:, 1:]:
                size += len(self.tokenizer.decode(labels[labels != IGNORED].tolist()).encode())
        return torch.tensor([nats, tokens, size], dtype=torch.float64)


def eager() -> AbstractContextManager[Any]:
    """Runs compiled layers as they were written: the many lengths of texts would compile them again."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
