"""The 8-bit base for training: bitsandbytes' stored weights, multiplied dequantised.

bitsandbytes' own 8-bit product quantises the activations at every call and keeps them as plain attributes
of the autograd node, where activation checkpointing never sees them: each layer's input stays in memory
until backward. Training gains nothing from integer products. Dequantising a weight costs memory traffic
only (7B: 20 GB a pass), and the product is nearer to the float model, because activations are not rounded.
What is stored is unchanged: int8 rows with their absolute maxima, LLM.int8() (Dettmers et al. 2022, arXiv
2208.07339) without its outlier columns.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear8bitLt
from torch.nn import functional


def dequantise(weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The matrix that int8 rows stand for: weight [out, in] x scales [out] / 127, rounded to `dtype` once."""
    column = (scales.float() / 127).unsqueeze(1)
    if torch.compiler.is_compiling():
        return (weight * column).to(dtype)
    if weight.device.type == "cuda":
        # One kernel: it reads int8, multiplies in fp32 and writes `dtype`.
        return torch.mul(weight, column, out=torch.empty_like(weight, dtype=dtype))
    return weight.to(dtype).mul_(column)


class _Product(torch.autograd.Function):  # type: ignore[misc]  # torch types it as Any
    """x @ dequantise(weight).T; keeps the int8 weight for backward, not the dequantised one and not x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight, scales)
        return functional.linear(x, dequantise(weight, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, scales = ctx.saved_tensors
        if torch.compiler.is_compiling():
            scales = _copy_for_backward(scales, gradient)
        return gradient @ dequantise(weight, scales, gradient.dtype), None, None


@torch.library.custom_op("zhuzi::copy_for_backward", mutates_args=())  # type: ignore[untyped-decorator]
def _copy_for_backward(scales: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The same scales, of which a compiler only sees that they need the gradient.

    Otherwise it finds that forward and backward dequantise the same, and keeps the forward's matrix: without
    checkpointing 13 GB of a 7B.
    """
    return scales.clone()


@_copy_for_backward.register_fake  # type: ignore[untyped-decorator]
def _(scales: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(scales)


class Int8Linear(Linear8bitLt):  # type: ignore[misc]  # bitsandbytes has no types
    """bitsandbytes' 8-bit linear layer with a product for training; to PEFT it is bitsandbytes' own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out], in the type of `x`, or autocast's."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        weight, scales = self.weight.data, self.weight.SCB
        out: torch.Tensor = _Product.apply(x, weight, scales)
        return out if self.bias is None else out + self.bias.to(out.dtype)


def use_for_training(model: torch.nn.Module) -> None:
    """Turn each 8-bit linear layer of a loaded model into an `Int8Linear`, in place; the weights stay."""
    for module in model.modules():
        if type(module) is Linear8bitLt:
            module.__class__ = Int8Linear
