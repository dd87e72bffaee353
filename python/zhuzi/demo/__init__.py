"""The whole road on a small sample: `zhuzi demo`."""

from zhuzi.demo.road import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
