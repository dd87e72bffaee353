"""The figures of a LLaMA that GGUF holds, and what GGUF has no place for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhuzi.errors import InputError
from zhuzi.model.folder import ModelFolder
from zhuzi.model.positions import positions

#: Architectures of transformers that are `llama` in llama.cpp.
_ARCHITECTURES = ("llama", "mistral")


@dataclass(frozen=True)
class Rope:
    """Rotary embeddings: their base, and how they are scaled."""

    theta: float
    kind: str
    """`default`, `linear`, `yarn` or `llama3`."""
    settings: Mapping[str, Any]
    """The scaling as config.json has it."""

    @property
    def factor(self) -> float:
        """By how much positions are stretched; 1 without scaling."""
        return float(self.settings.get("factor") or 1.0)


@dataclass(frozen=True)
class Shape:
    """What llama.cpp must know of a model to run it."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head: int
    """Size of one head."""
    positions: int
    epsilon: float
    rope: Rope


def shape_of(folder: ModelFolder) -> Shape:
    """The figures of a model folder.

    Raises:
        InputError: config.json lacks a figure, or llama.cpp's `llama` is another architecture.
    """
    config, where = folder.config, folder.path / "config.json"
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise InputError(
            f"{where}: model_type is {kind!r}; GGUF is written for {' and '.join(_ARCHITECTURES)}"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(f"{where}: hidden_act is {config['hidden_act']!r}; llama.cpp's LLaMA has silu")
    lacking = [
        key
        for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
        if not (isinstance(config.get(key), int) and config[key] > 0)
    ]
    if lacking:
        raise InputError(f"{where}: has no {', '.join(lacking)}; take the file of the original model")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    rope = _rope(folder)
    most = positions(config) if rope.kind != "dynamic" else config.get("max_position_embeddings")
    if most is None:
        raise InputError(f"{where}: has no max_position_embeddings; take the file of the original model")
    # Attention in a window is full attention as long as everything is in the window.
    window = config.get("sliding_window")
    if isinstance(window, int):
        most = min(most, window)
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        feed_forward=config["intermediate_size"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or hidden // heads,
        positions=most,
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope=rope if rope.kind != "dynamic" else Rope(rope.theta, "default", {}),
    )


def _rope(folder: ModelFolder) -> Rope:
    """The scaling of version 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`) of transformers."""
    config, where = folder.config, folder.path / "config.json"
    settings = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = str(settings.get("rope_type", settings.get("type")) or "default")
    # Up to the positions that it was trained with, `dynamic` does not scale.
    if kind not in ("default", "linear", "dynamic", "yarn", "llama3"):
        raise InputError(
            f"{where}: rotary embeddings of the type {kind!r}, which GGUF is not written with here; export "
            "with format hf"
        )
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) not in (None, 1, 1.0):
        raise InputError(f"{where}: partial_rotary_factor is not 1; llama.cpp's LLaMA rotates whole heads")
    factor = settings.get("factor", 1.0)
    if not isinstance(factor, int | float) or not factor > 0:
        raise InputError(f"{where}: the factor of the rotary embeddings is {factor!r}; want more than 0")
    own = [key for key in ("attention_factor", "mscale", "mscale_all_dim") if settings.get(key) is not None]
    if kind == "yarn" and own:
        raise InputError(
            f"{where}: yarn with {own[0]}, which llama.cpp computes itself; export with format hf"
        )
    return Rope(theta, kind, settings)


def llama3_factors(shape: Shape) -> list[float]:
    """By what each frequency of the rotary embeddings is divided, head / 2 of them, as LLaMA 3.1 does."""
    held = shape.rope.settings
    low, high = float(held.get("low_freq_factor", 1.0)), float(held.get("high_freq_factor", 4.0))
    trained = int(held.get("original_max_position_embeddings", 8192))
    factors = []
    for at in range(0, shape.head, 2):
        length = 2 * math.pi * shape.rope.theta ** (at / shape.head)
        if length < trained / high:
            factors.append(1.0)
        elif length > trained / low:
            factors.append(shape.rope.factor)
        else:
            smooth = (trained / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / shape.rope.factor + smooth))
    return factors
