"""Models on disk: what a folder holds, extending one, merging adapters into one, export, conversion.

torch, transformers and PEFT are loaded only after every check that does not need them has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.model.convert import convert_model
    from zhuzi.model.export.export import export_model
    from zhuzi.model.extend import extend_model
    from zhuzi.model.info import model_info
    from zhuzi.model.merge import merge_adapter


__getattr__, __dir__ = lazy(
    __name__,
    {
        "convert_model": "zhuzi.model.convert",
        "export_model": "zhuzi.model.export.export",
        "extend_model": "zhuzi.model.extend",
        "merge_adapter": "zhuzi.model.merge",
        "model_info": "zhuzi.model.info",
    },
)

__all__ = ["convert_model", "export_model", "extend_model", "merge_adapter", "model_info"]
