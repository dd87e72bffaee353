"""Noise on the embeddings while a model is tuned: NEFTune (Jain et al. 2023, arXiv 2310.05914)."""

from __future__ import annotations

from typing import Any

import torch


def use_for_training(causal: Any, alpha: float) -> None:
    """Let the decoder of a causal model add noise to its embeddings in training mode, in place.

    Uniform in +-alpha / sqrt(L x H), where L is the length of the token's own sequence, without padding and
    without the other records of a packed block. A call with a cache (generation) is left alone.
    """
    decoder = causal.get_decoder()

    def add(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        ids = named.get("input_ids")
        if not module.training or not torch.is_grad_enabled() or ids is None:
            return None
        embedded = module.get_input_embeddings()(ids)
        scale = alpha * (lengths(ids, named) * embedded.shape[-1]).rsqrt().unsqueeze(-1)
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1) * scale
        return inputs, {**named, "input_ids": None, "inputs_embeds": embedded + noise.to(embedded.dtype)}

    decoder.register_forward_pre_hook(add, with_kwargs=True)


def lengths(ids: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
    """[batch, T], the tokens of the sequence that each token is in, as fp32; padding counts as some."""
    if (mask := named.get("attention_mask")) is not None:
        return mask.sum(1, keepdim=True).float().expand_as(ids)
    if (positions := named.get("position_ids")) is None:
        return torch.full_like(ids, ids.shape[1], dtype=torch.float32)
    # A record begins where its positions do; so does each token of padding.
    record = (positions == 0).cumsum(1)
    sizes = torch.zeros(len(ids), ids.shape[1] + 1, device=ids.device)
    return sizes.scatter_add_(1, record, torch.ones_like(record, dtype=torch.float32)).gather(1, record)
