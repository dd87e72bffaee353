"""Using a trained model: the prompt, how tokens are drawn, an answer that streams.

Nothing here loads torch when it is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.infer.chat import Answer, Chat, complete
    from zhuzi.infer.generate import generate, stream_text
    from zhuzi.infer.prompt import format_prompt
    from zhuzi.infer.sampling import GREEDY, Sampling
    from zhuzi.infer.session import Session
    from zhuzi.infer.template import Message, Template
    from zhuzi.infer.templates import template_named, template_of

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Answer": "zhuzi.infer.chat",
        "Message": "zhuzi.infer.template",
        "Session": "zhuzi.infer.session",
        "Template": "zhuzi.infer.template",
        "template_named": "zhuzi.infer.templates",
        "template_of": "zhuzi.infer.templates",
        "GREEDY": "zhuzi.infer.sampling",
        "Chat": "zhuzi.infer.chat",
        "Sampling": "zhuzi.infer.sampling",
        "complete": "zhuzi.infer.chat",
        "format_prompt": "zhuzi.infer.prompt",
        "generate": "zhuzi.infer.generate",
        "stream_text": "zhuzi.infer.generate",
    },
)

__all__ = [
    "GREEDY",
    "Answer",
    "Chat",
    "Message",
    "Sampling",
    "Session",
    "Template",
    "complete",
    "format_prompt",
    "generate",
    "stream_text",
    "template_named",
    "template_of",
]
