"""LLaMA's weights as Meta published them: other names, matrices cut into files, other rotary embeddings.

`consolidated.00.pth` and so on each hold a part of every matrix, as many files as GPUs were meant to run it;
`params.json` has the shape. Rotary embeddings turn pairs of neighbouring rows of q and k; transformers turns
rows that are half a head apart, so these rows are put in its order. Layout: Meta's model.py
(ColumnParallelLinear, RowParallelLinear, ParallelEmbedding); order of rows: transformers'
convert_llama_weights_to_hf.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.folder import EMBEDDING, HEAD, read_json
from zhuzi.model.stream import Blocks

if TYPE_CHECKING:
    import torch

PARAMS = "params.json"

# Meta's name -> transformers' name, and the side along which the files cut it (None: each holds all of it).
_OUTSIDE: dict[str, tuple[str, int | None]] = {
    "tok_embeddings.weight": (EMBEDDING, 1),
    "norm.weight": ("model.norm.weight", None),
    "output.weight": (HEAD, 0),
}
_INSIDE: dict[str, tuple[str, int | None]] = {
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_COMPUTED = "rope.freqs"  # stored by Meta, computed by transformers
_ROWS = 4096  # written at a time

Shard = Mapping[str, "torch.Tensor"]


def is_meta(folder: Path) -> bool:
    """Whether a folder is in Meta's layout."""
    return (folder / PARAMS).is_file() and any(folder.glob("consolidated.*.pth"))


def meta_files(folder: Path) -> list[Path]:
    """The parts in order; `InputError` if one is missing."""
    files = sorted(folder.glob("consolidated.*.pth"))
    for number, file in enumerate(files):
        if file.name != f"consolidated.{number:02}.pth":
            raise InputError(f"{folder}: holds no consolidated.{number:02}.pth; fetch it again")
    return files


def to_transformers(folder: Path, shards: Sequence[Shard]) -> tuple[dict[str, Blocks], dict[str, Any]]:
    """Tensors by transformers' names, made while they are written; and the settings for config.json.

    Raises:
        InputError: a tensor of another model, or parts that do not belong together.
    """
    params = read_json(folder / PARAMS)
    heads = _number(folder, params, "n_heads")
    kv_heads = _number(folder, params, "n_kv_heads") if params.get("n_kv_heads") is not None else heads
    tensors: dict[str, Blocks] = {}
    for name in shards[0]:
        if name == _COMPUTED:
            continue
        if any(name not in shard for shard in shards):
            raise InputError(f"{folder}: only some of its files hold {name}; fetch them again")
        new, side = _new_name(folder, name)
        parts = [shard[name] for shard in shards]
        turned = heads if ".wq." in name else kv_heads if ".wk." in name else None
        tensors[new] = _joined(folder, name, parts, side, turned)
    for wanted in (EMBEDDING, HEAD, "model.layers.0.mlp.gate_proj.weight"):
        if wanted not in tensors:
            raise InputError(f"{folder}: holds no {wanted} (by Meta's name); fetch it again")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": tensors[EMBEDDING].shape[1],
        "intermediate_size": tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": len({match[1] for name in shards[0] if (match := _LAYER.fullmatch(name))}),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": params.get("rope_theta", 10000.0),
        # LLaMA's; Llama 2's files say as little, and its own converter takes 4,096 where it is told so.
        "max_position_embeddings": params.get("max_seq_len", 2048),
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "vocab_size": tensors[EMBEDDING].shape[0],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": tensors[EMBEDDING].dtype,
    }
    return tensors, config


def _new_name(folder: Path, name: str) -> tuple[str, int | None]:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _INSIDE:
        raise InputError(f"{folder}: its tensor {name} is not one of LLaMA's")
    new, side = _INSIDE[match[2]]
    return f"model.layers.{int(match[1])}.{new}", side


def _joined(
    folder: Path, name: str, parts: Sequence[torch.Tensor], side: int | None, turned: int | None
) -> Blocks:
    """The tensor that the parts make."""
    first = parts[0]
    if side is not None and first.ndim != 2:
        raise InputError(f"{folder}: {name} is {list(first.shape)}; want a matrix")
    for part in parts:
        other = [n for at, n in enumerate(part.shape) if at != side]
        if other != [n for at, n in enumerate(first.shape) if at != side] or part.dtype != first.dtype:
            raise InputError(f"{folder}: the parts of {name} do not fit together; fetch all files again")
    shape = list(first.shape)
    if side is not None:
        shape[side] = sum(part.shape[side] for part in parts)
    if turned is not None and shape[0] % (2 * turned):
        raise InputError(f"{folder}: {name} has {shape[0]} rows, not those of {turned} heads")
    return Blocks(
        str(first.dtype).removeprefix("torch."), tuple(shape), partial(_blocks, parts, side, turned)
    )


def _blocks(parts: Sequence[torch.Tensor], side: int | None, turned: int | None) -> Iterator[torch.Tensor]:
    import torch

    if side is None:
        yield parts[0]
    elif turned is not None:
        whole = torch.cat(list(parts))
        size = len(whole) // turned
        pairs = whole.view(turned, size // 2, 2, whole.shape[1])
        yield pairs.transpose(1, 2).reshape(whole.shape)
    elif side == 0:
        for part in parts:
            yield from part.split(_ROWS)
    else:
        for begin in range(0, len(parts[0]), _ROWS):
            yield torch.cat([part[begin : begin + _ROWS] for part in parts], 1)


def _number(folder: Path, params: Mapping[str, Any], key: str) -> int:
    value = params.get(key)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{folder / PARAMS}: {key} is {value!r}; want a number")
    return value
