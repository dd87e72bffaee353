"""The optimiser, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from zhuzi.train.checks import STORED_AS, module_of
from zhuzi.train.recipe import Recipe


def learning_rate_factor(recipe: Recipe, steps: int, step: int) -> float:
    """The share of the peak learning rate in step `step` of `steps`, counted from 0."""
    warmup = math.ceil(recipe.warmup * steps)
    if step < warmup:
        return step / warmup
    rest = steps - warmup
    past = (step - warmup) / max(1, rest)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "linear":
        return 1 - past
    if recipe.schedule == "wsd":  # warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): the last tenth
        return min(1.0, (steps - step) / max(1, math.ceil(0.1 * steps)))
    return 0.5 * (1 + math.cos(math.pi * past))


def make_optimizer(named: Sequence[tuple[str, torch.nn.Parameter]], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; embedding and head may have a peak learning rate of their own."""
    groups = []
    for of_vocabulary in (False, True):
        held = [p for name, p in named if (module_of(name) in STORED_AS) == of_vocabulary]
        own = recipe.embedding_learning_rate if of_vocabulary else None
        if held:
            groups.append({"params": held, "peak": recipe.learning_rate if own is None else own})
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": recipe.betas,
        "weight_decay": recipe.weight_decay,
    }
    if recipe.optimizer == "adamw":
        # Fused: eight times as fast on a CPU, where the plain one walks every tensor several times.
        return torch.optim.AdamW(groups, fused=True, **options)
    from bitsandbytes import optim

    kind = optim.AdamW8bit if recipe.optimizer == "adamw-8bit" else optim.PagedAdamW8bit
    made: torch.optim.Optimizer = kind(groups, **options)
    return made


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group its peak times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
