"""What of a run its processes divide among them, and what cannot be divided; no torch.

`deepspeed` of a recipe: ZeRO-1 or 2 (Rajbhandari et al. 2019, arXiv 1910.02054), by DeepSpeed's own JSON.
`fsdp`: all parameters, by torch's fully_shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zhuzi._process import has_gpu
from zhuzi.errors import RecipeError
from zhuzi.train.recipe import ZERO, Recipe

#: accelerate's settings that a launcher puts into the environment, and what stands for them here.
_LAUNCHED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed: write `deepspeed: zero-2`, or its JSON file, into the recipe",
    "ACCELERATE_USE_FSDP": "FSDP: write `fsdp: true` into the recipe",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which Zhuzi does not train with",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism that Zhuzi does not have: write `fsdp: true`",
}

_BUCKET = 500_000_000  # DeepSpeed's own `reduce_bucket_size`


def require_divisible(recipe: Recipe, processes: int) -> None:
    """Raise `RecipeError` for what cannot be divided, or is not installed, and for a launcher's settings.

    A recipe says how its run is divided: what accelerate's configuration says beside it would be lost.
    """
    if not has_gpu():  # where DeepSpeed is installed, accelerate imports it, which then warns of this
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, what in _LAUNCHED.items():
        if os.environ.get(name, "false").lower() in ("1", "true"):
            raise RecipeError(
                f"accelerate's configuration asks for {what}; then launch with torchrun, or with `accelerate "
                "launch --multi_gpu`"
            )
    if recipe.fsdp and not has_gpu():
        raise RecipeError(
            "fsdp: needs GPUs, and this machine has none: on a CPU accelerate runs DistributedDataParallel "
            "in its place and divides nothing; leave it out (--set fsdp=false)"
        )
    if recipe.deepspeed is not None:
        deepspeed_settings(recipe, processes)
        if find_spec("deepspeed") is None:
            raise RecipeError(
                "deepspeed: not installed; install it (pip install 'zhuzi[deepspeed]'), or leave it out"
            )


def zero_stage(recipe: Recipe) -> int:
    """1 or 2; 0 without `deepspeed`. Raises as `deepspeed_settings` does."""
    if recipe.deepspeed is None:
        return 0
    stage: int = deepspeed_settings(recipe, 1)["zero_optimization"]["stage"]
    return stage


def gradient_bucket(recipe: Recipe, hidden: int) -> int:
    """Elements of gradients that DeepSpeed exchanges at a time. Raises as `deepspeed_settings` does."""
    zero = deepspeed_settings(recipe, 1, hidden)["zero_optimization"]
    size: int = int(zero.get("reduce_bucket_size", _BUCKET))
    return size * (2 if zero.get("overlap_comm") else 1)


def deepspeed_settings(recipe: Recipe, processes: int, hidden: int = 0) -> dict[str, Any]:
    """DeepSpeed's configuration, complete: that of the file, with "auto" filled in from the recipe.

    `hidden` is the model's width, by whose square a bucket that is "auto" is sized.

    Raises:
        RecipeError: the file cannot be read, or asks for what the recipe decides, or for what is not divided
            here.
    """
    assert recipe.deepspeed is not None
    where = recipe.deepspeed
    if where in ZERO:
        given: dict[str, Any] = {"zero_optimization": {"stage": ZERO[where], "reduce_bucket_size": "auto"}}
    else:
        given = _read(Path(where))
    for key, reason in _refused(given):
        raise RecipeError(f"deepspeed: {where}: {key}: {reason}")
    settings = {k: v for k, v in given.items() if k not in ("bf16", "fp16", "optimizer", "amp")}
    share = recipe.batch_size // processes
    ours = {
        "train_batch_size": (share * processes, "batch_size"),
        # To DeepSpeed, a step is one batch: micro batches are counted by the loop.
        "train_micro_batch_size_per_gpu": (share, "micro_batch_size"),
        "gradient_accumulation_steps": (1, "batch_size over micro_batch_size and the number of processes"),
        "gradient_clipping": (float(recipe.max_grad_norm), "max_grad_norm"),
    }
    for key, (value, name) in ours.items():
        if given.get(key, "auto") != "auto":
            raise RecipeError(f'deepspeed: {where}: {key}: the recipe has it, as {name}; write "auto"')
        settings[key] = value
    zero = dict(given["zero_optimization"])
    if zero.get("reduce_bucket_size") == "auto":  # as transformers fills it; DeepSpeed's own takes 2 GB
        zero["reduce_bucket_size"] = max(hidden * hidden, 1_000_000)
    settings["zero_optimization"] = {k: v for k, v in zero.items() if v != "auto"}
    settings["zero_allow_untested_optimizer"] = True  # torch's AdamW, which DeepSpeed does not list
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"deepspeed: {path}: cannot be read ({error.strerror}); name a DeepSpeed JSON file, or write "
            f"{' or '.join(ZERO)}"
        ) from error
    except ValueError as error:
        raise RecipeError(f"deepspeed: {path}: not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict):
        raise RecipeError(f"deepspeed: {path}: want an object, as DeepSpeed's configuration is")
    return given


def _refused(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of DeepSpeed that a run cannot have, each with the reason."""
    zero = given.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, Mapping) else None
    if not isinstance(zero, Mapping) or stage not in (1, 2, 3):
        yield "zero_optimization.stage", "want 1 or 2; without ZeRO, leave deepspeed out"
        return
    if stage == 3:
        yield (
            "zero_optimization.stage",
            "3 divides the frozen base too, and quantised weights cannot be divided; write 2, or for a "
            "16-bit base fsdp: true",
        )
    for key in ("offload_optimizer", "offload_param"):
        if _section(zero, key).get("device", "none") != "none":
            yield f"zero_optimization.{key}", "checkpoints would not hold what is offloaded; leave it out"
    for key in ("bf16", "fp16", "amp"):
        if _section(given, key).get("enabled", "auto") not in (False, "auto"):
            yield (
                f"{key}.enabled",
                "what trains stays in fp32, and products are computed in the 16 bits that the device has; "
                'write "auto"',
            )
    optimizer = _section(given, "optimizer")
    fixed = [k for k, v in _section(optimizer, "params").items() if v != "auto"]
    if optimizer and (optimizer.get("type") != "AdamW" or fixed):
        yield "optimizer", 'the recipe has it (AdamW, its settings); leave it out, or write "auto"'
    if "scheduler" in given:
        yield "scheduler", "the recipe has it (schedule, warmup); leave it out"


def _section(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    held = given.get(key)
    return held if isinstance(held, Mapping) else {}
