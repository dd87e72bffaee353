"""Training: recipes, data, the Trainer, pre-training and instruction tuning.

`pretrain` and `sft` bring torch and transformers, 5 to 10 seconds, when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi.train.recipe import load_recipe

if TYPE_CHECKING:
    from zhuzi.train.pretraining import pretrain
    from zhuzi.train.tuning import sft


def __getattr__(name: str) -> object:
    if name == "pretrain":
        from zhuzi.train.pretraining import pretrain

        return pretrain
    if name == "sft":
        from zhuzi.train.tuning import sft

        return sft
    raise AttributeError(f"module 'zhuzi.train' has no attribute {name!r}")


__all__ = ["load_recipe", "pretrain", "sft"]
