"""Models on disk: what a folder holds, extending one, merging an adapter into one.

Neither brings torch, transformers or PEFT before every check that needs none of them has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhuzi.model.extend import extend_model
    from zhuzi.model.merge import merge_adapter


def __getattr__(name: str) -> object:
    if name == "extend_model":
        from zhuzi.model.extend import extend_model

        return extend_model
    if name == "merge_adapter":
        from zhuzi.model.merge import merge_adapter

        return merge_adapter
    raise AttributeError(f"module 'zhuzi.model' has no attribute {name!r}")


__all__ = ["extend_model", "merge_adapter"]
