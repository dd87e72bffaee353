"""A model behind OpenAI's API: requests, a fair queue, answers that stream, limits.

Nothing here loads torch or starlette when it is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.serve.server import serve_model
    from zhuzi.serve.settings import ServeSettings

__getattr__, __dir__ = lazy(
    __name__, {"ServeSettings": "zhuzi.serve.settings", "serve_model": "zhuzi.serve.server"}
)

__all__ = ["ServeSettings", "serve_model"]
