"""A model as one GGUF file, written tensor by tensor: memory is bounded by the largest tensor.

llama.cpp rotates pairs of neighbours in a head, transformers the first half against the second: the rows of
the query and key matrices change places (`permuted`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhuzi.errors import InputError
from zhuzi.model.export.shape import Shape, llama3_factors, shape_of
from zhuzi.model.folder import HEAD, ModelFolder
from zhuzi.model.weights import TensorInfo
from zhuzi.vocab.gguf_file import add_vocabulary

if TYPE_CHECKING:
    import numpy as np
    import torch

Type = Literal["f32", "f16", "bf16", "q8_0"]

#: Values that share one scale in q8_0: the length of a row must be a multiple.
BLOCK = 32

#: Rows that are quantised at a time.
_ROWS = 2048

_SKIPPED = ".rotary_emb.inv_freq"  # computed from the config; old checkpoints store it
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Place:
    """A tensor of the model and where it goes."""

    info: TensorInfo
    name: str
    """Its name in GGUF."""
    type: Type
    heads: int
    """Heads whose rows are permuted; 0 for other tensors."""


def places(folder: ModelFolder, shape: Shape, type: Type) -> list[Place]:  # noqa: A002  # the option's name
    """Each tensor of the model with its name and type in GGUF, in the order in which they are written.

    Vectors are f32, as llama.cpp wants them. A matrix whose rows q8_0 cannot cut into blocks is f16.

    Raises:
        InputError: GGUF's `llama` has no place for a tensor, or one is missing.
    """
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    heads = {"attn_q": shape.heads, "attn_k": shape.key_value_heads}
    found = []
    for info in folder.tensors.values():
        if info.name.endswith(_SKIPPED) or (folder.tied and info.name == HEAD):
            continue
        name = names.get_name(info.name, try_suffixes=(".weight", ".bias"))
        if name is None or info.dtype not in ("F16", "BF16", "F32"):
            raise InputError(
                f"{info.file}: its tensor {info.name} ({info.dtype}) has no place in GGUF's LLaMA; export "
                "with format hf"
            )
        wanted: Type = type
        if len(info.shape) == 1:
            wanted = "f32"
        elif type == "q8_0" and info.shape[-1] % BLOCK:
            wanted = "f16"
        found.append(Place(info, name, wanted, heads.get(name.split(".")[-2], 0)))
    _require_all({place.name for place in found}, folder, shape)
    return sorted(found, key=lambda place: _order(place.name))


def _require_all(names: set[str], folder: ModelFolder, shape: Shape) -> None:
    parts = (
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
    wanted = {f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in parts}
    wanted |= {"token_embd.weight", "output_norm.weight"} | (set() if folder.tied else {"output.weight"})
    missing = sorted(wanted - names)
    if missing:
        raise InputError(
            f"{folder.path}: lacks {len(missing)} tensors of {shape.layers} layers, such as GGUF's "
            f"{missing[0]}; fetch the model again"
        )


def _order(name: str) -> tuple[int, str]:
    """Embedding first, then the layers, then norm and head."""
    parts = name.split(".")
    if parts[0] == "blk":
        return int(parts[1]) + 1, name
    return (0 if parts[0] == "token_embd" else 1 << 30), name


def write_model(
    folder: ModelFolder,
    path: Path,
    *,
    type: Type,  # noqa: A002  # the option's name
    name: str,
    chat_template: str | None,
    facts: dict[str, str],
    progress: Callable[[int, int], object] | None = None,
) -> list[Place]:
    """Write the GGUF file; gives the tensors as they were written.

    `facts` are keys of `general.` (licence, base), `progress` is given bytes written and bytes in all.

    Raises:
        InputError: a value is too large for `type`, or what `shape_of` and `places` raise.
        ImportError: the package `gguf` is not installed.
    """
    import gguf
    import numpy as np

    shape = shape_of(folder)
    tensors = places(folder, shape, type)
    writer = gguf.GGUFWriter(path, "llama")
    _add_facts(writer, folder, shape, type, name, facts)
    add_vocabulary(writer, folder.tokenizer, rows=folder.rows, chat_template=chat_template)
    _add_further_ends(writer, folder)
    if shape.rope.kind == "llama3":
        writer.add_tensor_info(_ROPE_FACTORS, (shape.head // 2,), np.dtype(np.float32), shape.head * 2)
    sizes = {place.name: _size(place) for place in tensors}
    for place in tensors:
        kind = getattr(gguf.GGMLQuantizationType, place.type.upper())
        writer.add_tensor_info(
            place.name, place.info.shape, np.dtype(np.float32), sizes[place.name], raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if shape.rope.kind == "llama3":
        writer.write_tensor_data(np.array(llama3_factors(shape), np.float32))
    done, total = 0, sum(sizes.values())
    for place in tensors:
        writer.write_tensor_data(_encoded(folder, place))
        done += sizes[place.name]
        if progress is not None:
            progress(done, total)
    writer.close()
    return tensors


def size_of(folder: ModelFolder, type: Type) -> int:  # noqa: A002  # the option's name
    """Bytes of the tensors in a GGUF file of this type."""
    return sum(map(_size, places(folder, shape_of(folder), type)))


def _size(place: Place) -> int:
    n = 1
    for length in place.info.shape:
        n *= length
    return n // BLOCK * 34 if place.type == "q8_0" else n * (4 if place.type == "f32" else 2)


def _add_facts(
    writer: Any,
    folder: ModelFolder,
    shape: Shape,
    type: Type,  # noqa: A002
    name: str,
    facts: dict[str, str],
) -> None:
    import gguf

    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(name)
    for key, value in facts.items():
        writer.add_string(f"general.{key}", value)
    writer.add_file_type(gguf.LlamaFileType[kinds[type]])
    if type == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope.theta)
    held = shape.rope.settings
    if shape.rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.rope.factor)
    elif shape.rope.kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(shape.rope.factor)
        before = held.get("original_max_position_embeddings") or folder.config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(before))
        writer.add_rope_scaling_yarn_beta_fast(float(held.get("beta_fast") or 32.0))
        writer.add_rope_scaling_yarn_beta_slow(float(held.get("beta_slow") or 1.0))


def _add_further_ends(writer: Any, folder: ModelFolder) -> None:
    """A second id that ends an answer (ChatML's), as generation_config.json names it."""
    ends = folder.generation_config.get("eos_token_id")
    eos = folder.tokenizer.eos_id
    for id in ends if isinstance(ends, list) else []:
        if isinstance(id, int) and id != eos and 0 <= id < folder.rows:
            writer.add_eot_token_id(id)
            return


def _encoded(folder: ModelFolder, place: Place) -> np.ndarray[Any, Any]:
    """The bytes of a tensor in GGUF."""
    import gguf
    import numpy as np
    import torch

    tensor = folder.read(place.info.name)
    if place.heads:
        tensor = permuted(tensor, place.heads)
    if place.type == "q8_0":
        parts = [
            gguf.quants.quantize(rows.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
            for rows in _finite(tensor, place).split(_ROWS)
        ]
        joined: np.ndarray[Any, Any] = np.concatenate(parts)
        return joined
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[place.type]
    written = _finite(tensor.to(dtype), place).contiguous()
    # numpy has no bfloat16: its bits, then.
    array: np.ndarray[Any, Any] = (written.view(torch.int16) if dtype == torch.bfloat16 else written).numpy()
    return array


def _finite(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    if bool(tensor.isfinite().all()):
        return tensor
    raise InputError(
        f"{place.info.file}: {place.info.name} has values that are not finite in {place.type}; export as "
        "bf16 or f32, or train again if they are not finite in the file"
    )


def permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (or a bias) of `heads` heads in llama.cpp's order: rows i and i + size / 2 become neighbours."""
    return (
        tensor.view(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        .transpose(1, 2)
        .reshape(tensor.shape)
    )


def unpermuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `permuted`."""
    return (
        tensor.view(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
        .transpose(1, 2)
        .reshape(tensor.shape)
    )
