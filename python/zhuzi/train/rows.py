"""Only the appended rows of embedding and head train: `vocabulary: new-rows`.

PEFT's `trainable_token_indices` is what is saved, so that plain PEFT loads and merges it. PEFT's own layer
copies the whole matrix at every forward to put the trained rows in; here the old rows stay as they are,
frozen, and the new ones are a matrix of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.nn import functional

from zhuzi.train.loss import Head

_ADAPTER = "default"  # PEFT's name for the one adapter
# Settings of models that cap their logits (Gemma), or scale them (Granite, Cohere).
_AFTER_THE_HEAD = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class NewRows(TrainableTokensLayer):  # type: ignore[misc]  # PEFT has no types
    """An embedding or a head in two parts: frozen old rows in the base's type, trained new rows in fp32."""

    @property
    def new(self) -> torch.Tensor:
        """[n, H], the trained rows."""
        rows: torch.Tensor = self.trainable_tokens_delta[_ADAPTER]
        return rows

    @property
    def old(self) -> torch.Tensor:
        """[V - n, H], the frozen rows."""
        rows: torch.Tensor = self.base_layer.weight
        return rows

    def forward_adapters(
        self, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Embedding: ids [...] to [..., H]. Head: states [..., H] to logits [..., V]."""
        if isinstance(self.base_layer, nn.Linear):
            return torch.cat(
                [functional.linear(x, part.to(x.dtype)) for part in (self.old, self.new)], dim=-1
            )
        first = len(self.old)
        is_new = x >= first
        old = functional.embedding(x.masked_fill(is_new, 0), self.old)
        new = functional.embedding((x - first).clamp(min=0), self.new).to(old.dtype)
        return torch.where(is_new.unsqueeze(-1), new, old)

    def get_merged_weights(self, active_adapters: Any) -> torch.Tensor:
        """The whole matrix, a copy; only what asks for `.weight` needs it."""
        return torch.cat([self.old, self.new.to(self.old.dtype)])


def use_for_training(model: nn.Module, old_rows: int) -> None:
    """Turn PEFT's trainable tokens into `NewRows`, in place, and drop the copies that PEFT keeps of them."""
    layers: list[Any] = [m for m in model.modules() if type(m) is TrainableTokensLayer]
    for layer in layers:
        layer.__class__ = NewRows
        layer.trainable_tokens_original.clear()
        if layer.tied_adapter is None:
            old = layer.base_layer.weight[:old_rows].clone()
            layer.base_layer.weight = nn.Parameter(old, requires_grad=False)
    for layer in layers:
        if layer.tied_adapter is not None:  # a tied head's matrix is the embedding's
            layer.base_layer.weight = layer.tied_adapter.base_layer.weight


def wrap(model: Any, modules: list[str], old_rows: int, *, tied: bool) -> None:
    """Make the new rows of `embed_tokens` or `lm_head` trainable in a model without LoRA, in place."""
    ids = list(range(old_rows, model.config.vocab_size))

    def wrapped(layer: nn.Module, tied_to: Any = None) -> Any:
        rows = TrainableTokensLayer(layer, _ADAPTER, ids, tied_to)
        rows.update_layer(_ADAPTER, tied_adapter=tied_to, token_indices=ids)
        return rows

    if "embed_tokens" in modules:
        embedding = wrapped(model.get_input_embeddings())
        model.set_input_embeddings(embedding)
        if tied:
            model.set_output_embeddings(wrapped(model.get_output_embeddings(), embedding))
    if "lm_head" in modules:
        model.set_output_embeddings(wrapped(model.get_output_embeddings()))


def round_embedded(model: Any, dtype: torch.dtype) -> None:
    """Let the embedding of a causal model give its vectors in `dtype`, in place.

    An embedding that trains whole is fp32. So would be the states between all layers, which are added to its
    vectors: a 7B with 4,096 tokens would keep 2 GiB of them for backward instead of 1.
    """
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, vectors: vectors.to(dtype))


def head_of(model: Any) -> Head | None:
    """The head of a causal model, whichever way it trains; none if logits are more than a product with it."""
    head = model.get_output_embeddings()
    if isinstance(head, LoraLayer) or any(getattr(model.config, key, None) for key in _AFTER_THE_HEAD):
        return None
    inner = getattr(head, "token_adapter", head)
    if isinstance(inner, NewRows):
        return Head(inner.old, inner.new)
    whole = getattr(head, "modules_to_save", None)
    return Head(head.weight if whole is None else whole[_ADAPTER].weight)


def drop_frozen_copies(model: nn.Module) -> None:
    """Empty the copies that PEFT keeps of matrices that train whole (7B in bf16: 0.8 GB); they never run."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            held = module.original_module.weight
            module.original_module.weight = nn.Parameter(
                held.new_empty(0, held.shape[1]), requires_grad=False
            )
