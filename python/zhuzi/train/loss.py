"""Next-token cross-entropy that never holds tokens x vocabulary.

The head and the loss are one step: a chunk of tokens at a time, logits, loss and gradients are computed and
the logits dropped. The gradients are made in the forward pass, while the logits are there, so nothing is
computed twice; what is kept for backward is the gradient of the hidden states and of those rows of the head
that train. 4,096 tokens of a vocabulary of 49,953 take 0.8 GB of fp32 logits and as much again for their
gradient; a chunk takes 64 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutput

from zhuzi.train.data import IGNORED
from zhuzi.train.memory import CHUNK_BYTES


@dataclass(frozen=True)
class Head:
    """The matrix of the language-model head, in one part or in two."""

    weight: torch.Tensor
    """[V, H], or the first of two parts: [V - n, H]."""
    rows: torch.Tensor | None = None
    """[n, H], the second part, which is trained alone."""


def next_token_loss(
    hidden: torch.Tensor, labels: torch.Tensor, head: Head, count: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy (nats) of the next tokens: its sum over the labels that count, divided by `count`.

    Args:
        hidden: [..., T, H], the last hidden states.
        labels: [..., T] ids as the input has them: position t predicts the label of t + 1. Those that are
            `IGNORED` have no loss.
        head: takes gradients where its parts require them.
        count: what to divide by; by default the labels that count here, so that the result is their mean.
            With gradient accumulation, or several processes, give the number in the whole step.
    """
    width = hidden.shape[-1]
    targets = functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].reshape(-1)
    counted = (targets != IGNORED).nonzero().squeeze(1)
    states = hidden.reshape(-1, width)
    if len(counted) < len(states):  # a prompt and padding cost no product
        states, targets = states[counted], targets[counted]
    total: torch.Tensor = _SummedLoss.apply(states, targets, head.weight, head.rows)
    return total / (len(targets) if count is None else count)


class _SummedLoss(torch.autograd.Function):  # type: ignore[misc]  # torch types it as Any
    """The sum of the losses of [N, H] states, with its gradients computed beside it."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        targets: torch.Tensor,
        weight: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        wants_states, _, *wants = ctx.needs_input_grad
        with torch.autocast(kind, enabled=False):
            parts = [weight.to(dtype), *([] if rows is None else [rows.to(dtype)])]
            wants = wants[: len(parts)]
            if len(parts) == 2 and wants[0]:
                raise ValueError("where only rows of the head train, the matrix must be frozen")
            total = torch.zeros((), dtype=torch.float32, device=states.device)
            gradient = torch.zeros_like(states, dtype=torch.float32) if wants_states else None
            sums = [
                torch.zeros_like(part, dtype=torch.float32) if wanted else None
                for part, wanted in zip(parts, wants, strict=True)
            ]
            size = sum(map(len, parts))
            length = max(1, CHUNK_BYTES // (4 * size))
            # Rows begin at multiples of 64 bytes: a CPU's product that writes them is a third faster, and a
            # GPU's fast products take no others.
            room = min(length, len(states)), -(-size // 32) * 32
            logits = states.new_empty(room, dtype=torch.float32)[:, :size]
            rounded = None if dtype == torch.float32 else states.new_empty(room, dtype=dtype)[:, :size]
            for begin in range(0, len(states), length):
                chunk = states[begin : begin + length].to(dtype)
                held = logits[: len(chunk)]
                loss, scale = _chunk_loss(chunk, targets[begin : begin + length], parts, held)
                total += loss
                if gradient is None and not any(wants):
                    continue
                if rounded is not None:  # scaled as it is rounded, in one pass
                    held = torch.mul(held, scale, out=rounded[: len(chunk)])
                own = None if gradient is None else gradient[begin : begin + length]
                for i, share in enumerate(held.split(list(map(len, parts)), dim=1)):
                    if own is not None:
                        _add_product(own, share, parts[i])
                    if (matrix := sums[i]) is not None:
                        _add_product(matrix, share.T, chunk * scale if dtype == torch.float32 else chunk)
                if own is not None and dtype == torch.float32:
                    own.mul_(scale)
        ctx.of_rows = len(parts) == 2
        ctx.types = (states.dtype, weight.dtype if rows is None else rows.dtype)
        # Not by save_for_backward: with its reference, the head's gradient would be copied.
        ctx.gradients = [gradient, sums[-1]]
        return total

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        matrix, states = (
            None if kept is None else kept.mul_(outer).to(dtype)
            for kept, dtype in zip((ctx.gradients.pop(), ctx.gradients.pop()), ctx.types[::-1], strict=True)
        )
        return (states, None, None, matrix) if ctx.of_rows else (states, None, matrix, None)


def _add_product(into: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """into += a @ b, where `into` is fp32 and a product in 16 bits is rounded before it is added."""
    if a.dtype == into.dtype:
        into.addmm_(a, b)
    else:
        into.add_(a @ b)


def _chunk_loss(
    chunk: torch.Tensor, targets: torch.Tensor, parts: list[torch.Tensor], logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of [C, H] states, and a scale [C, 1].

    `logits` [C, V] times the scale become the loss's gradient, softmax minus one-hot. A softmax is not made:
    it would read and write them once more.
    """
    at = 0
    for part in parts:
        share = logits[:, at : at + len(part)]
        if part.dtype == logits.dtype:
            torch.mm(chunk, part.T, out=share)
        else:
            share.copy_(chunk @ part.T)
        at += len(part)
    of_targets = logits.gather(1, targets.unsqueeze(1))
    most = logits.amax(1, keepdim=True)
    sums = logits.sub_(most).exp_().sum(1, keepdim=True)
    logits.scatter_add_(1, targets.unsqueeze(1), -sums)
    return (sums.log() + most - of_targets).sum(), sums.reciprocal()


def use_for_training(model: Any, head: Callable[[], Head | None]) -> None:
    """Let a causal model of transformers' compute its loss by `next_token_loss`, in place.

    Called with labels, its forward returns the loss alone; without, it is the model's own. `head` is called
    at each step for the `Head`; where it gives none, the loss is the model's own too. The loss is computed
    in a call of the head's module, where FSDP has its matrix whole.
    """
    own, output = type(model).forward, model.get_output_embeddings()
    logits = output.forward

    def of_output(states: torch.Tensor, *inputs: Any, labels: Any = None, **named: Any) -> torch.Tensor:
        matrix = None if labels is None else head()
        if matrix is None:
            plain: torch.Tensor = logits(states, *inputs, **named)
            return plain
        return next_token_loss(states, labels, matrix, named["count"])

    def forward(self: Any, input_ids: torch.Tensor | None = None, **inputs: Any) -> Any:
        matrix = None if inputs.get("labels") is None else head()
        if inputs.get("labels") is not None:
            inputs["use_cache"] = False  # a layer that is computed again would fill it twice
        if matrix is None:
            out = own(self, input_ids=input_ids, **inputs)
            return out if inputs.get("labels") is None else CausalLMOutput(loss=out.loss)
        labels = inputs.pop("labels")
        count = inputs.pop("num_items_in_batch", None)
        hidden = self.model(input_ids=input_ids, **inputs).last_hidden_state
        return CausalLMOutput(loss=output(hidden, labels=labels, count=count))

    output.forward = of_output
    model.forward = MethodType(forward, model)
