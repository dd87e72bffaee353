"""The matrices of a model by its config.json alone: no weights, no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zhuzi.errors import InputError
from zhuzi.model.folder import read_json

#: Kinds of models (config.json's `model_type`) with LLaMA's matrices, or some more.
KINDS = ("llama", "mistral", "qwen2", "qwen3")

#: Width, inner width, layers and heads of LLaMA (Touvron et al. 2023, arXiv 2302.13971, table 2) with 32,000
#: rows. Llama 2 has the same 7B and 13B.
_LLAMA = {
    "llama-7b": (4096, 11008, 32, 32),
    "llama-13b": (5120, 13824, 40, 40),
    "llama-33b": (6656, 17920, 60, 52),
    "llama-65b": (8192, 22016, 80, 64),
}
LLAMA_ROWS = 32_000
#: Models of other shapes that come in the same sizes.
_OTHERS = re.compile(r"qwen|mistral|gemma|baichuan|internlm|deepseek|falcon|bloom|mpt|glm|\bphi\b|\byi\b")
KNOWN = tuple(_LLAMA)


@dataclass(frozen=True)
class Shape:
    """A model's numbers, as config.json has them."""

    name: str  # a known model's, or the path of its config.json
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rows: int  # of the embedding
    tied: bool = False
    attention_biases: tuple[str, ...] = ()  # projections with a bias
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen 3 normalises queries and keys per head

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """[out, in] of each linear layer in a decoder layer, by its module's name."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }

    @property
    def linear(self) -> int:
        """Weights of all linear layers in the decoder layers, which are those that can be quantised."""
        return self.layers * sum(math.prod(shape) for shape in self.matrices.values())

    @property
    def small(self) -> int:
        """Norms and biases, which are never quantised."""
        matrices = self.matrices
        biased = [*self.attention_biases, *(("gate_proj", "up_proj", "down_proj") if self.mlp_bias else ())]
        biases = sum(matrices[name][0] for name in biased)
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (biases + norms) + self.hidden

    @property
    def vocabulary(self) -> int:
        """Elements of the embedding; of the head too, unless it is the embedding."""
        return self.rows * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the base."""
        return self.linear + self.small + self.vocabulary * (1 if self.tied else 2)


def known_shape(name: str, rows: int = LLAMA_ROWS) -> Shape | None:
    """One of `KNOWN`, also as its folder may be called: `models/chinese-llama-7b`; else None."""
    if _OTHERS.search(name.lower()):
        return None
    size = re.search(r"(?<![\d.])(7|13|30|33|65)b(?![a-z0-9])", name.lower())
    if size is None:
        return None
    found = f"llama-{size[1].replace('30', '33')}b"
    hidden, inner, layers, heads = _LLAMA[found]
    return Shape(found, hidden, inner, layers, heads, heads, hidden // heads, rows)


def with_rows(shape: Shape, rows: int | None) -> Shape:
    """The same with another number of rows, if one is given."""
    return shape if rows is None else replace(shape, rows=rows)


def read_shape(path: Path) -> Shape:
    """The shape in a config.json, or in that of a model folder.

    Raises:
        InputError: no such file, a kind of model that is not known here, or a number that is wrong.
    """
    file = path / "config.json" if path.is_dir() else path
    return shape_of(read_json(file), str(file))


def shape_of(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that the settings of a model give; raises as `read_shape` does."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise InputError(
            f"{name}: model_type is {kind!r}; memory is planned for {', '.join(KINDS)}, whose matrices are "
            "known"
        )

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise InputError(f"{name}: {key} is {value!r}; want a whole number above 0")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" else ()
    if kind in ("llama", "qwen3") and config.get("attention_bias"):
        attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    return Shape(
        name=name,
        hidden=hidden,
        inner=number("intermediate_size"),
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", max(1, hidden // heads)),
        rows=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_biases=attention,
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias")),
        qk_norm=kind == "qwen3",
    )
