"""A base with an adapter beside it, loaded whole: what is used and measured, not merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError, ZhuziError
from zhuzi.model.adapter import RESTORE, AdapterFolder, is_whole
from zhuzi.model.folder import ADAPTER_FILES, ModelFolder, first_line
from zhuzi.model.weights import load_tensor

if TYPE_CHECKING:
    import torch


def load_adapted(
    base: ModelFolder,
    adapter: AdapterFolder,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """Base plus adapter, in fp32 by default, unmerged.

    Raises:
        InputError: PEFT cannot load it, or would leave a tensor out (it only warns).
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    try:
        held_base = base.load(dtype or torch.float32, device)
        merged = PeftModel.from_pretrained(held_base, adapter.path).eval()
    except (OSError, ImportError, ZhuziError):
        raise
    except Exception as error:  # of PEFT, safetensors, torch or Python itself
        raise InputError(cannot_load(adapter, first_line(error))) from error
    held = set(get_peft_model_state_dict(merged, save_embedding_layers=False))
    # PEFT also saves embedding and head whole if they were adapted or resized.
    held |= {name for name in set(adapter.tensors) - held if _is_loaded(merged, adapter, name)}
    require_same_names(adapter, held)
    return merged


def _is_loaded(merged: Any, adapter: AdapterFolder, name: str) -> bool:
    """Whether the model now has a whole matrix of the adapter, bit for bit."""
    import torch

    if not is_whole(name):
        return False
    held = merged.state_dict().get(name)
    return held is not None and torch.equal(
        held.cpu(), load_tensor(adapter.tensors[name].file, name).to(held.dtype)
    )


def require_same_names(adapter: AdapterFolder, held: set[str]) -> None:
    """Raise `InputError` unless the settings give a place to each tensor of the adapter, and to no other."""
    apart = held ^ set(adapter.tensors)
    if apart:
        raise InputError(
            f"{adapter.path}: {ADAPTER_FILES[0]} and {ADAPTER_FILES[1]} disagree about {min(apart)} "
            f"(and {len(apart) - 1} more); {RESTORE}"
        )


def cannot_load(adapter: AdapterFolder, why: str) -> str:
    """What is said of an adapter that PEFT cannot load."""
    return f"{adapter.path}: PEFT cannot load it ({why}); {RESTORE}"
