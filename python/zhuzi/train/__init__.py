"""Training: recipes, data, the loop, pre-training and instruction tuning.

`pretrain` and `sft` load torch and transformers (5 to 10 seconds) only after all checks that need neither: of
the recipe, the paths, the corpus or records, the base's headers, and the disk space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.train.plan import Plan, plan_run
    from zhuzi.train.pretraining import pretrain
    from zhuzi.train.preview import PreviewedRecord, preview_records
    from zhuzi.train.recipe_file import load_recipe
    from zhuzi.train.shipped import copy_recipe, shipped_recipes
    from zhuzi.train.stages import load_stages
    from zhuzi.train.state import TrainCallback, TrainState
    from zhuzi.train.tuning import sft

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Plan": "zhuzi.train.plan",
        "PreviewedRecord": "zhuzi.train.preview",
        "TrainCallback": "zhuzi.train.state",
        "TrainState": "zhuzi.train.state",
        "load_recipe": "zhuzi.train.recipe_file",
        "load_stages": "zhuzi.train.stages",
        "plan_run": "zhuzi.train.plan",
        "pretrain": "zhuzi.train.pretraining",
        "preview_records": "zhuzi.train.preview",
        "copy_recipe": "zhuzi.train.shipped",
        "sft": "zhuzi.train.tuning",
        "shipped_recipes": "zhuzi.train.shipped",
    },
)

__all__ = [
    "Plan",
    "PreviewedRecord",
    "TrainCallback",
    "TrainState",
    "copy_recipe",
    "load_recipe",
    "load_stages",
    "plan_run",
    "pretrain",
    "preview_records",
    "sft",
    "shipped_recipes",
]
