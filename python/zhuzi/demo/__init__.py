"""The whole road on a small sample: `zhuzi demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.demo.road import DemoResult, run_demo

__getattr__, __dir__ = lazy(__name__, {"DemoResult": "zhuzi.demo.road", "run_demo": "zhuzi.demo.road"})

__all__ = ["DemoResult", "run_demo"]
