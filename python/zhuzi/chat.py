"""Deprecated: the name that `zhuzi.infer` had before 0.2."""

import warnings

from zhuzi.infer.chat import Chat, complete
from zhuzi.infer.generate import generate, stream_text

__all__ = ["Chat", "complete", "generate", "stream_text"]

warnings.warn("zhuzi.chat is now zhuzi.infer; the old name goes with 1.0", DeprecationWarning, stacklevel=2)
