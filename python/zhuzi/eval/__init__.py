"""How good a model is: figures that can be compared across vocabularies, and answers side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.eval.bits import BitsPerByte, bits_per_byte
    from zhuzi.eval.compare import Comparison, compare_models

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BitsPerByte": "zhuzi.eval.bits",
        "Comparison": "zhuzi.eval.compare",
        "bits_per_byte": "zhuzi.eval.bits",
        "compare_models": "zhuzi.eval.compare",
    },
)

__all__ = ["BitsPerByte", "Comparison", "bits_per_byte", "compare_models"]
