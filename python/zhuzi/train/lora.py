"""LoRA's layers for training: PEFT's, with fewer passes over what they write.

PEFT multiplies B's product, as wide as the layer's output, by the scale and then adds it: two passes forward
and one backward over a matrix to which the product itself can add. Under mixed precision autocast casts A and
B at each call, and again where activations are computed once more; here they are cast once per forward of the
model, all at a time.

Parameters, draws of dropout, and results (but for rounding) are PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora

_ADAPTER = "default"  # PEFT's name for the one adapter


class _Added(torch.autograd.Function):  # type: ignore[misc]  # torch types it as Any
    """result + scale * states @ A.T @ B.T: products of the cast A and B, gradients for A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        result: torch.Tensor,
        states: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        casts: tuple[torch.Tensor, torch.Tensor],
        scale: float,
        in_place: bool,
    ) -> torch.Tensor:
        cast_a, cast_b = casts
        # The thin matrices are [rank, tokens]: on a CPU, products that read or write them so are up to ten
        # times faster than with [tokens, rank].
        inner = cast_a @ _flat(states).T
        ctx.save_for_backward(states, inner, cast_a, cast_b)
        ctx.scale = scale
        rows, factors = _flat(result), (inner.T, cast_b.T)
        if in_place:
            ctx.mark_dirty(result)
            rows.addmm_(*factors, alpha=scale)
            return result
        return torch.addmm(rows, *factors, alpha=scale).view(result.shape)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, inner, cast_a, cast_b = ctx.saved_tensors
        rows = _flat(outer)
        of_inner = (cast_b.T @ rows.T).mul(ctx.scale)
        of_states = (of_inner.T @ cast_a).view(states.shape) if ctx.needs_input_grad[1] else None
        of_b = (inner @ rows).mul(ctx.scale)
        return outer, of_states, of_inner @ _flat(states), of_b.T, None, None, None


def _flat(states: torch.Tensor) -> torch.Tensor:
    return states.reshape(-1, states.shape[-1])


class _Trained:
    """What is put before PEFT's class of a layer."""

    casts: tuple[torch.Tensor, torch.Tensor] | None = None
    """A and B in the type of the products, where it is not theirs and no call casts its own."""

    def forward(self: Any, x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        if not self.training or not torch.is_grad_enabled() or self.disable_adapters or self.merged:
            out: torch.Tensor = super().forward(x, *args, **named)  # type: ignore[misc]
            return out
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # once, for base and adapter
        a, b = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
        result = self.base_layer(x)
        in_place = not torch.compiler.is_compiling() and not result._is_view()
        states = self.lora_dropout[_ADAPTER](x)
        casts = self.casts or (a.detach().to(x.dtype), b.detach().to(x.dtype))
        added: torch.Tensor = _Added.apply(result, states, a, b, casts, self.scaling[_ADAPTER], in_place)
        return added


class _Linear(_Trained, lora.Linear):  # type: ignore[misc]  # PEFT has no types
    pass


class _Linear8bit(_Trained, lora.Linear8bitLt):  # type: ignore[misc]
    pass


class _Linear4bit(_Trained, lora.Linear4bit):  # type: ignore[misc]
    pass


_CLASSES = {lora.Linear: _Linear, lora.Linear8bitLt: _Linear8bit, lora.Linear4bit: _Linear4bit}


def use_for_training(model: torch.nn.Module, causal: Any, dtype: torch.dtype) -> None:
    """Let the plain LoRA layers of a PEFT model train as above, in place; `dtype` is that of the products.

    Layers of another kind (DoRA) stay PEFT's. A and B are cast before each forward of the decoder: an
    optimiser may change them without torch's knowledge, so nothing tells when they are new. (Hooks of
    `causal` itself would not do: PEFT before 0.21 passes them by.) With fp32 for `dtype` each call casts its
    own, if it must: under FSDP they are whole only then.
    """
    adapted: list[Any] = [m for m in model.modules() if type(m) in _CLASSES]
    layers = [layer for layer in adapted if not layer.lora_variant]
    for layer in layers:
        layer.__class__ = _CLASSES[type(layer)]
    if dtype == torch.float32:
        return
    for layer in adapted:
        if layer.lora_variant:
            # DoRA's magnitude is fp32: so would be what it scales, and all that this is added to.
            layer.register_forward_hook(lambda module, inputs, out: out.to(dtype))
    if not layers:
        return
    held: list[torch.Tensor] = []
    parameters: list[torch.Tensor] = []
    for layer in layers:
        pair = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
        layer.casts = tuple(p.detach().to(dtype) for p in pair)
        held += layer.casts
        parameters += pair

    def cast(module: torch.nn.Module, _: Any) -> None:
        if module.training and torch.is_grad_enabled():
            with torch.no_grad():
                torch._foreach_copy_(held, parameters)

    causal.get_decoder().register_forward_pre_hook(cast)
