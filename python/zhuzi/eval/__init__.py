"""How good a model is: figures that can be compared across vocabularies, and answers side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.eval.bits import BitsPerByte, bits_per_byte
    from zhuzi.eval.compare import Comparison, compare_models
    from zhuzi.eval.corpora import BitsComparison, compare_bits
    from zhuzi.eval.exam import ExamResult, evaluate_exam

__getattr__, __dir__ = lazy(
    __name__,
    {
        "BitsComparison": "zhuzi.eval.corpora",
        "BitsPerByte": "zhuzi.eval.bits",
        "Comparison": "zhuzi.eval.compare",
        "ExamResult": "zhuzi.eval.exam",
        "bits_per_byte": "zhuzi.eval.bits",
        "compare_bits": "zhuzi.eval.corpora",
        "compare_models": "zhuzi.eval.compare",
        "evaluate_exam": "zhuzi.eval.exam",
    },
)

__all__ = [
    "BitsComparison",
    "BitsPerByte",
    "Comparison",
    "ExamResult",
    "bits_per_byte",
    "compare_bits",
    "compare_models",
    "evaluate_exam",
]
