"""EVA: LoRA's A starts as the main directions of what its layer reads (Paischer et al. 2024, 2410.07170).

B starts at zero as always, so the base is left alone and the first logits are its own. The PCA, and when it
has converged, are PEFT's; each layer keeps the recipe's rank (EVA's rho is 1). PEFT's own function cannot be
used: it takes an embedding whose rows train for a layer of LoRA, turns adapters off (which runs the copies of
embedding and head that are dropped here), compares inputs as lists of Python numbers, and need not end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.incremental_pca import IncrementalPCA
from torch.nn.functional import cosine_similarity

from zhuzi.errors import TrainingError
from zhuzi.train.batches import Batches, MicroBatch
from zhuzi.train.data import IGNORED
from zhuzi.train.progress import tell

#: Forwards at most.
MOST = 64

_ADAPTER = "default"  # PEFT's name for the one adapter
_SIMILAR = 0.99  # PEFT's tau: cosine of a direction before and after a batch


class _Directions:
    """The main directions of a layer's inputs, from batch to batch."""

    def __init__(self, name: str, rank: int, features: int) -> None:
        if rank > features:
            raise TrainingError(
                f"lora.init: eva finds {features} directions in what {name} reads, and lora.rank is {rank}; "
                "lower it, or write init: default"
            )
        self.least, self.settled = 2 * rank, False
        lowrank = 2 * rank <= features
        self.pca = IncrementalPCA(n_components=rank, lowrank=lowrank, lowrank_seed=42)

    @property
    def found(self) -> torch.Tensor | None:
        """[rank, features]; none before the first batch."""
        found: torch.Tensor | None = getattr(self.pca, "components_", None)
        return found

    def fit(self, inputs: torch.Tensor) -> None:
        """Take [tokens, features] into account, unless they are too few, or the directions have settled."""
        if self.settled or len(inputs) < self.least:
            return
        before = self.found
        self.pca.partial_fit(inputs.float())
        if before is not None:
            self.settled = bool((cosine_similarity(self.pca.components_, before) >= _SIMILAR).all())


class _Reader:
    """Sees what the layers read in a forward; those that read the same tensor share its directions."""

    def __init__(self, layers: dict[str, Any]) -> None:
        self.layers = layers
        self.of: dict[str, _Directions] = {}
        self.counted = torch.empty(0)
        self._last: tuple[torch.Tensor, str] | None = None

    def see(self, name: str, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """A forward pre-hook of the layer of that name."""
        states, last = inputs[0], self._last
        self._last = (states, name)
        if name not in self.of:
            if last is not None and last[0] is states:  # q, k and v; gate and up
                self.of[name] = self.of[last[1]]
            else:
                self.of[name] = _Directions(name, module.r[_ADAPTER], module.in_features)
        if last is None or last[0] is not states:
            self.of[name].fit(states[self.counted])


def initialise(model: Any, batches: Batches, device: torch.device, dtype: torch.dtype) -> None:
    """Give each A of a PEFT model the main directions of its layer's inputs on the run's first sequences.

    Only tokens with a label count, as in PEFT. Draws no random numbers of the run.

    Raises:
        TrainingError: no forward has enough tokens, or a rank is larger than a layer's input.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer) and m.lora_A}
    causal, reader, tokens = model.get_base_model(), _Reader(layers), 0
    head = next((name for name, layer in layers.items() if layer is causal.get_output_embeddings()), None)
    training = model.training
    with ExitStack() as held, torch.no_grad(), torch.autocast(device.type, dtype, dtype != torch.float32):
        for name, layer in layers.items():
            if name != head:
                held.callback(layer.register_forward_pre_hook(partial(reader.see, name)).remove)
        model.eval()
        for batch in _first(batches):
            inputs = batch.to(device)
            reader.counted = inputs.pop("labels") != IGNORED
            states = causal.get_decoder()(**inputs, use_cache=False).last_hidden_state
            if head is not None:
                reader.see(head, layers[head], (states,))
            tokens += int(reader.counted.sum())
            if all(directions.settled for directions in reader.of.values()):
                break
        model.train(training)
        for name, layer in layers.items():
            found = reader.of[name].found
            if found is None:
                raise TrainingError(
                    f"lora.init: eva needs a forward of {reader.of[name].least} tokens with a label; raise "
                    "micro_batch_size, or write init: default"
                )
            layer.lora_A[_ADAPTER].weight.copy_(found)
    open_ones = sum(not directions.settled for directions in reader.of.values())
    ending = f"; {open_ones} of {len(layers)} layers still changed" if open_ones else ""
    tell(f"lora.init: eva: from {tokens:,} tokens of the run's first sequences{ending}")


def _first(batches: Batches) -> Iterator[MicroBatch]:
    step = made = 0
    while made < MOST:
        for batch in batches.of_step(step):
            if made < MOST:
                yield batch
            made += 1
        step += 1
