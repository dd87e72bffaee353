"""Instruction data collected from a model at an OpenAI-compatible endpoint, as self-instruct does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.endpoint import Endpoint
    from zhuzi.instruct.budget import Budget
    from zhuzi.instruct.collect import collect_instructions
    from zhuzi.instruct.collection import CollectedInstructions
    from zhuzi.instruct.filters import Filters

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Budget": "zhuzi.instruct.budget",
        "CollectedInstructions": "zhuzi.instruct.collection",
        "Endpoint": "zhuzi.endpoint",
        "Filters": "zhuzi.instruct.filters",
        "collect_instructions": "zhuzi.instruct.collect",
    },
)

__all__ = ["Budget", "CollectedInstructions", "Endpoint", "Filters", "collect_instructions"]
