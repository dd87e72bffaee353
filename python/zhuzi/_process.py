"""This process: its rank under torchrun (only one process prints what all would print) and its cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def rank() -> int:
    """This process's rank; 0 is the first process, or the only one."""
    return _number("RANK")


def launched() -> int:
    """How many processes were launched together; 1 if this one was started alone."""
    return max(1, _number("WORLD_SIZE"))


def is_main() -> bool:
    """Whether this is rank 0, or the only process."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this is the first process on its machine."""
    return _number("LOCAL_RANK") == 0


def is_together() -> bool:
    """Whether torch.distributed is initialised; until then all processes check the same things."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch might use, by its driver's files; torch is not loaded."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdecimal() else 0
