"""The model to train: loaded, adapted, and checked to train exactly what the recipe says."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from zhuzi._process import launched
from zhuzi.errors import TrainingError
from zhuzi.model.folder import EMBEDDING, ModelFolder
from zhuzi.model.quantised import quantisation
from zhuzi.train import int8, layers, lora, loss, noise, rows
from zhuzi.train.checks import FROZEN_COPY, STORED_AS, module_of, old_rows, trained_matrices
from zhuzi.train.recipe import Recipe, SftRecipe


def load_for_training(folder: ModelFolder, recipe: Recipe) -> torch.nn.Module:
    """The recipe's model on this process's device (with FSDP on the CPU), ready to train.

    The frozen part is kept in int8 (`base_bits: 8`), NF4 (4) or the compute type: fp32 on a CPU, where bf16
    without its instructions is ten times slower; bf16, else fp16, on a GPU. What trains is fp32 and starts
    exactly from the stored values.
    """
    # PEFT's DoRA reads a 4-bit weight at each call, in a way of bitsandbytes' that no compiler follows.
    unfit = (
        "DoRA over 4 bits" if recipe.lora is not None and recipe.lora.dora and recipe.base_bits == 4 else None
    )
    compiled = layers.is_compiled(recipe.compile, device(), unfit)
    # FSDP puts a share on each GPU: none has room for the whole.
    place = torch.device("cpu") if recipe.fsdp and launched() > 1 else device()
    quantised = quantisation(recipe.base_bits, compute_dtype())
    model = folder.load(compute_dtype(), place, quantization_config=quantised)
    if recipe.base_bits == 8:
        int8.use_for_training(model)
    causal = model
    first = old_rows(recipe, folder)
    model = adapt(model, recipe, tied=folder.tied, old_rows=first)
    for name, parameter in trainable(model):
        parameter.data = parameter.data.float()
        stored = STORED_AS.get(module_of(name))
        if stored is not None:
            # The loaded copy is rounded to the compute type: with it, rows of unseen tokens would change.
            stored = EMBEDDING if folder.tied else stored
            parameter.data.copy_(folder.read(stored)[first:])
    lora.use_for_training(model, causal, torch.float32 if recipe.fsdp else compute_dtype())
    rows.round_embedded(causal, compute_dtype())
    loss.use_for_training(causal, lambda: rows.head_of(causal))
    if isinstance(recipe, SftRecipe) and recipe.neftune is not None:
        noise.use_for_training(causal, recipe.neftune)
    layers.use_for_training(causal, compiled=compiled, checkpointed=recipe.gradient_checkpointing)
    _require_intended(model, recipe, tied=folder.tied)
    return model


def device() -> torch.device:
    """This process's GPU (torchrun's LOCAL_RANK), or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where the GPU has it, else fp16; fp32 on a CPU."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def device_name() -> str:
    """This process's device and the name of its GPU, for reports."""
    here = device()
    return str(here) if here.type == "cpu" else f"{here} {torch.cuda.get_device_name(here)}"


def adapt(model: Any, recipe: Recipe, *, tied: bool, old_rows: int = 0) -> Any:
    """Freeze all but what the recipe trains; with `lora`, wrap the model with PEFT.

    Of embedding and head, the first `old_rows` rows stay frozen and the rest trains.
    """
    matrices = trained_matrices(recipe, tied=tied)
    if recipe.lora is None:
        model.requires_grad_(False)
        if old_rows:
            rows.wrap(model, matrices, old_rows, tied=tied)
            rows.use_for_training(model, old_rows)
        else:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(module_of(name) in matrices)
        return model
    new = list(range(old_rows, model.config.vocab_size)) if old_rows else []
    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.rslora,
        use_dora=recipe.lora.dora,
        # `eva` needs data, and is done once the model is whole (`eva.py`).
        init_lora_weights=True if recipe.lora.init in ("default", "eva") else recipe.lora.init,
        target_modules=list(recipe.lora.targets),
        modules_to_save=None if old_rows else matrices or None,
        trainable_token_indices=dict.fromkeys(matrices, new) if old_rows else None,
        ensure_weight_tying=tied and bool(matrices),
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    if old_rows:
        rows.use_for_training(model, old_rows)
    else:
        rows.drop_frozen_copies(model)
    return model


def trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Name and tensor of every parameter that takes a gradient."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable parameters, and all parameters: with LoRA's, without PEFT's frozen copies."""
    live = [(_numel(p), p.requires_grad) for name, p in model.named_parameters() if FROZEN_COPY not in name]
    return sum(n for n, trains in live if trains), sum(n for n, _ in live)


def _numel(parameter: torch.nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # bitsandbytes packs two weights of 4 bits into a byte
    return parameter.numel() if state is None else math.prod(state.shape)


def digest_tensors(model: Any) -> dict[str, str]:
    """sha256 of every tensor of the model by name: parameters, buffers, int8 weights and their scales."""
    return {name: _digest(tensor) for name, tensor in _tensors(model)}


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        # bitsandbytes keeps the scales of an int8 weight next to it and moves them at the first forward.
        weight = module._parameters.get("weight")  # its own; PEFT's wrappers return the inner layer's
        scales = getattr(weight, "SCB", None)
        if scales is None:
            scales = getattr(getattr(module, "state", None), "SCB", None)
        if weight is not None and isinstance(scales, torch.Tensor):
            yield f"{name}.weight.SCB", scales


def _digest(tensor: torch.Tensor) -> str:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # divided by FSDP
    raw = whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy()).hexdigest()


def _require_intended(model: Any, recipe: Recipe, *, tied: bool) -> None:
    """Raise unless exactly the intended parameters train, each in fp32.

    fp16 trainables fail under mixed precision ("Attempting to unscale FP16 gradients"), and an embedding that
    PEFT left frozen, or whose frozen copy trains instead, would only be noticed in the finished model.
    """
    found = {name for name, _ in trainable(model)}
    matrices = trained_matrices(recipe, tied=tied)
    ending = "weight"
    if recipe.vocabulary == "new-rows":
        ending = "trainable_tokens_delta.default"
    elif recipe.lora is not None:
        ending = "modules_to_save.default.weight"
    wanted = {n for n, _ in model.named_parameters() if module_of(n) in matrices and n.endswith(ending)}
    wanted |= {n for n, _ in model.named_parameters() if ".lora_" in n}
    absent = set(matrices) - {module_of(name) for name in wanted}
    if found != wanted or not wanted or absent:
        raise TrainingError(
            "the parameters that train are not those of the recipe: "
            f"{', '.join(sorted((found ^ wanted) | absent))}"
        )
    low = [name for name, parameter in trainable(model) if parameter.dtype != torch.float32]
    if low:
        raise TrainingError(f"trainable parameters that are not fp32: {', '.join(low)}")
