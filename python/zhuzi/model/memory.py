"""Memory while a model is loaded: what is freed goes back to the system, and too little is an error."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SETTING = "MALLOC_MMAP_THRESHOLD_"
_SMALL, _MOST = 1 << 20, 32 << 20


@contextmanager
def returned_when_freed() -> Iterator[None]:
    """Let glibc give each block of 1 MiB or more pages of its own.

    By default it takes blocks of up to 32 MiB from its heap once some of that size were freed. Loading and
    quantising a matrix at a time, the heap then holds freed 16-bit matrices between the 8-bit ones that stay:
    520 MB of bf16 took 644 MB for a model of 276, with this 269. Afterwards the thresholds are the largest
    that glibc reaches on its own: at 1 MiB the steps of a small model took a quarter to a third more CPU
    time, for new pages. Elsewhere than under glibc, and where the environment sets the threshold, nothing is
    done.
    """
    if _SETTING in os.environ:
        yield
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        yield
        return
    mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, 2 * _MOST)


class _OutOfMemory(BaseException):
    """Made of an OutOfMemoryError, as transformers collects each Exception of a conversion and goes on."""


@contextmanager
def out_of_memory_passes() -> Iterator[None]:
    """Let an OutOfMemoryError of a conversion pass through transformers, to `out_of_memory_raised`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _OutOfMemory from error


@contextmanager
def out_of_memory_raised() -> Iterator[None]:
    """Raise the OutOfMemoryError that passed through transformers."""
    try:
        yield
    except _OutOfMemory as passed:
        assert passed.__cause__ is not None
        raise passed.__cause__ from None
