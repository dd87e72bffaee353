"""How fast training is, and how near to what the GPU can do."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from zhuzi.train.checks import FROZEN_COPY, module_of
from zhuzi.train.layers import are_compiled

# Dense products in bf16 or fp16, accumulated in fp32, in TFLOP/s, without sparsity; the first pattern that
# the device's name contains counts. Source: NVIDIA's data sheets; for GeForce and RTX the whitepapers of the
# Ampere, Ada and Blackwell architectures (GeForce does half of its fp16 rate when it accumulates in fp32).
_PEAK = [
    (r"\bGB200\b", 2500.0),
    (r"\bB200\b", 2250.0),
    (r"\bH100 PCIe\b", 756.0),
    (r"\bH[12]00 NVL\b", 835.0),
    (r"\b(G?H[12]00|H800)\b", 989.4),
    (r"\bH20\b", 148.0),
    (r"\bA[18]00\b", 312.0),
    (r"\bA30\b", 165.0),
    (r"\bA40\b", 149.7),
    (r"\bA10G\b", 70.0),
    (r"\bA10\b", 125.0),
    (r"\bL40S\b", 362.1),
    (r"\bL40\b", 181.0),
    (r"\bL4\b", 121.0),
    (r"\bRTX 6000 Ada\b", 364.2),
    (r"\bRTX A6000\b", 154.8),
    (r"\bRTX 5090\b", 209.5),
    (r"\bRTX 4090\b", 165.2),
    (r"\bRTX 4080\b", 97.5),
    (r"\bRTX 3090 Ti\b", 80.0),
    (r"\bRTX 3090\b", 71.0),
    (r"\bV100S\b", 130.0),
    (r"\bV100-PCIE\b", 112.0),
    (r"\bV100\b", 125.0),
    (r"\bT4\b", 65.0),
]


def peak_flops(name: str) -> float | None:
    """Floating-point operations per second that a GPU of this name can do at most; None if not known.

    A laptop's GPU and a slice of one (MIG) do less than their name says, and are not known.
    """
    if re.search(r"Laptop|Max-Q|\bMIG\b", name):
        return None
    return next((peak * 1e12 for pattern, peak in _PEAK if re.search(pattern, name)), None)


def flops_per_token(model: torch.nn.Module, length: int) -> float:
    """Operations that forward and backward need for a token of a sequence of `length`.

    Per weight of a linear layer 2 for the product, 2 for the gradient of its input and, if it trains, 2 for
    its own; attention 12 x layers x width x length, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B). What activation checkpointing computes again does not count.
    """
    config: Any = model.config
    weights: int = sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and FROZEN_COPY not in f"{name}."
    )
    tied = getattr(config, "tie_word_embeddings", False)
    trained: int = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad and (tied or module_of(name) != "embed_tokens")
    )
    attention: int = 12 * config.num_hidden_layers * config.hidden_size * length
    return 4 * weights + 2 * trained + attention


def peak_memory() -> int:
    """Bytes: the most that torch has held on the GPU in this run, or else that this process has held."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Speed:
    """Times the steps, and not what happens between them: evaluations, checkpoints, samples."""

    def __init__(self, model: torch.nn.Module, length: int, processes: int) -> None:
        self.flops, self.compiles = flops_per_token(model, length), are_compiled(model)
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        peak = None if name is None else peak_flops(name)
        self.on_gpu, self.peak = name is not None, None if peak is None else peak * processes
        if self.on_gpu:  # a run before this one, or loading, may have held more
            torch.cuda.reset_peak_memory_stats()
        self._first = self._seconds = self._logged_seconds = 0.0
        self._steps = self._tokens = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step."""
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self._first = self._first or seconds
        self._seconds += seconds
        self._steps += 1

    def add(self, tokens: int) -> None:
        """Count the tokens of a step, over all processes."""
        self._tokens += tokens

    def entry(self, left: int) -> dict[str, float | int | None]:
        """Figures of the steps since the call before, and the time that the `left` steps will take.

        `mfu`, the share of the GPU's peak that was needed, is missing on a CPU, and None on a GPU that is not
        known. `seconds_left` is None after a first step that compiled the layers: the others take seconds
        where that one takes minutes.
        """
        seconds, self._logged_seconds = self._seconds - self._logged_seconds, self._seconds
        rate, self._tokens = self._tokens / max(seconds, 1e-9), 0
        # The first step also compiles kernels and fills caches.
        each = (self._seconds - self._first) / (self._steps - 1) if self._steps > 1 else self._first
        entry: dict[str, float | int | None] = {"tokens_per_second": round(rate, 1)}
        if self.on_gpu:
            entry["mfu"] = None if self.peak is None else round(rate * self.flops / self.peak, 4)
        known = not self.compiles or self._steps > 1 or left == 0
        seconds_left = round(each * left, 1) if known else None
        return {**entry, "memory_bytes": peak_memory(), "seconds_left": seconds_left}
