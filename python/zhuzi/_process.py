"""This process: its number among torchrun's (what all of them would say alike, one says), and its cores."""

from __future__ import annotations

import os
import sys


def rank() -> int:
    """This process's number; 0 is the first, or the only one."""
    return _number("RANK")


def is_main() -> bool:
    """Whether this is the first of torchrun's processes, or the only one."""
    return rank() == 0


def is_first_here() -> bool:
    """Whether this is the first process on its machine."""
    return _number("LOCAL_RANK") == 0


def is_together() -> bool:
    """Whether the processes have met: before, each checks the same; from then on each can fail alone."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdecimal() else 0
