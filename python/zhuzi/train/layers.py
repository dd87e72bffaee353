"""Decoder layers for training: compiled one by one, and their activations computed again in backward.

Compiling a layer at a time ("regional compilation") compiles the code of one layer, which all of them share:
start-up stays short. Activation checkpointing has to be around the compiled layer, not in it: a compiler that
sees the checkpoint must keep the random numbers of dropout equal in both passes, and fails at it (PEFT issue
3020). transformers 5 checkpoints inside of a layer's `forward`, so it is done here.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from zhuzi.errors import TrainingError, TrainingInterrupted
from zhuzi.train.progress import tell


def use_for_training(model: torch.nn.Module, *, compiled: bool, checkpointed: bool) -> None:
    """Let each decoder layer train compiled, or keep only its input for backward, or both; in place.

    Names of modules and tensors stay. In evaluation a layer runs as it did before: texts of many lengths,
    and generation, would compile it again and again.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            own: Callable[..., Any] = layer.forward
            run = torch.compile(own) if compiled else own
            if checkpointed:
                run = partial(
                    checkpoint, run, use_reentrant=False
                )  # the other kind wants inputs with gradient
            layer.forward = partial(_forward, layer, own, run)
            marked: Any = layer
            marked.trains_compiled = compiled


def _forward(
    layer: torch.nn.Module, own: Callable[..., Any], run: Callable[..., Any], *inputs: Any, **named: Any
) -> Any:
    return (run if layer.training and torch.is_grad_enabled() else own)(*inputs, **named)


def are_compiled(model: torch.nn.Module) -> bool:
    """Whether the layers of a model train compiled."""
    return any(getattr(layer, "trains_compiled", False) for layer in model.modules())


def is_compiled(wanted: str, device: torch.device, unfit: str | None = None) -> bool:
    """What a recipe's `compile` means on a device; one line says why `auto` is off.

    `unfit` names what the layers have that a compiler takes apart, which makes them slower.

    Raises:
        TrainingError: `on`, and there is no compiler.
    """
    if wanted == "off":
        return False
    missing = what_is_missing(device)
    if wanted == "on":
        if missing:
            raise TrainingError(f"compile: on needs {missing}; install it, or write compile: auto")
        return True
    if device.type == "cpu":
        missing = "a GPU"
    if missing:
        tell(f"layers are not compiled: that needs {missing} (compile: auto)")
    elif unfit:
        tell(f"layers are not compiled: {unfit} would take them apart (compile: auto)")
    return not missing and not unfit


@contextmanager
def naming_compile_errors(signal: Callable[[], str | None]) -> Iterator[None]:
    """Turn an error of torch.compile in the block into one line.

    `signal` tells the signal that has come, if any: Ctrl-C and Slurm send it to the compiler's processes too,
    which end at once. Compiling is done in a start's first step, before which nothing was lost.

    Raises:
        TrainingError: a compiler that fails.
        TrainingInterrupted: one that a signal ended.
    """
    try:
        yield
    except Exception as error:
        errors = sys.modules.get("torch._dynamo.exc")
        if errors is None or not isinstance(error, errors.TorchDynamoException):
            raise
        if received := signal():
            raise TrainingInterrupted(
                f"{received}: stopped while layers were compiled; the same command starts from where it did"
            ) from error
        lines = str(error).splitlines() or [type(error).__name__]
        why = next((line for line in lines if "error: " in line), lines[0]).strip()[:200]
        raise TrainingError(
            f"layers cannot be compiled ({why}); write compile: off into the recipe"
        ) from error


def what_is_missing(device: torch.device) -> str | None:
    """What torch.compile lacks on a device: it writes C++ for a CPU; Triton builds a C launcher for a GPU."""
    if device.type == "cpu":
        names = [os.environ.get("CXX"), "g++", "clang++"]
        what = "a C++ compiler (such as g++)"
    else:
        from torch.utils._triton import has_triton

        if not has_triton():
            return "Triton and a GPU that it supports"
        names = [os.environ.get("CC"), "cc", "gcc", "clang"]
        what = "a C compiler (such as gcc)"
    if not any(shutil.which(name) for name in names if name):
        return what
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's C headers (such as the package python3-dev)"
    return None
