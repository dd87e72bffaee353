"""`zhuzi.infer` by the name it had first."""

from zhuzi.infer.chat import Chat, complete
from zhuzi.infer.generate import generate, stream_text

__all__ = ["Chat", "complete", "generate", "stream_text"]
