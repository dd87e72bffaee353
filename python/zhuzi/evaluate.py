"""Deprecated: the name that `zhuzi.eval` had before 0.2."""

import warnings

from zhuzi.eval.bits import BitsPerByte, bits_per_byte

__all__ = ["BitsPerByte", "bits_per_byte"]

warnings.warn(
    "zhuzi.evaluate is now zhuzi.eval; the old name goes with 1.0", DeprecationWarning, stacklevel=2
)
