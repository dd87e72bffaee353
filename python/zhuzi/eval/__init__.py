"""How good a model is, in figures that can be compared across vocabularies."""

from zhuzi.eval.bits import BitsPerByte, bits_per_byte

__all__ = ["BitsPerByte", "bits_per_byte"]
