"""`zhuzi.eval` by the name it had first."""

from zhuzi.eval.bits import BitsPerByte, bits_per_byte

__all__ = ["BitsPerByte", "bits_per_byte"]
