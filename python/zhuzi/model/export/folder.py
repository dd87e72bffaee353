"""A model folder as transformers and vLLM take it: weights, settings, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.infer.sampling import Sampling
from zhuzi.model import weights
from zhuzi.model.folder import EMBEDDING, GENERATION, HEAD, ModelFolder, read_json
from zhuzi.record.json_file import write_json

if TYPE_CHECKING:
    import torch

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_INDEX_KEYS = ("metadata", "weight_map")

#: Settings of generation that say how tokens are drawn.
_DRAWN = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")


def dtype_of(type: str) -> str:  # noqa: A002  # the option's name
    """torch's name of a type of export."""
    return _DTYPES[type]


def require_tie(folder: ModelFolder) -> None:
    """Raise `InputError` if config.json ties a head that the file holds with other values.

    Loaders drop such a head: what was trained in it would be lost.
    """
    import torch

    if not folder.tied or HEAD not in folder.tensors:
        return
    if not torch.equal(folder.read(HEAD), folder.read(EMBEDDING)):
        raise InputError(
            f"{folder.path}: config.json says tie_word_embeddings, but {HEAD} and {EMBEDDING} differ, and "
            f'loaders would drop the head; write "tie_word_embeddings": false into {folder.path}/config.json'
        )


def write_weights(
    folder: ModelFolder, out: Path, dtype: str, progress: Callable[[int, int], object] | None = None
) -> None:
    """Write the weights in `dtype`, with the files of the source (one is in memory at a time).

    Raises:
        InputError: a value is too large for `dtype`.
    """
    import torch
    from safetensors.torch import save_file

    files = sorted({info.file for info in folder.tensors.values()})
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        held = {
            name: _rounded(folder, name, tensor, getattr(torch, dtype))
            for name, tensor in weights.load_tensors(file).items()
        }
        save_file(held, out / file.name, metadata={"format": "pt"})
        done += file.stat().st_size
        if progress is not None:
            progress(done, total)
    if (folder.path / weights.INDEX).is_file():
        index = read_json(folder.path / weights.INDEX)
        write_json(out / weights.INDEX, index)
        size = sum(info.end - info.begin for info in weights.read_headers(out).values())
        write_json(out / weights.INDEX, {**index, "metadata": {"total_size": size}})


def _rounded(folder: ModelFolder, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    rounded = tensor.to(dtype)
    if not bool(rounded.isfinite().all()):
        raise InputError(
            f"{folder.tensors[name].file}: {name} has values that are not finite in {dtype}; export as bf16 "
            "or f32"
        )
    return rounded


def write_settings(folder: ModelFolder, out: Path, dtype: str, *, tuned: bool) -> None:
    """Write config.json and generation_config.json: the special ids in both are the tokenizer's.

    The settings of drawing are the source's; without any, a `tuned` model gets the published ones.
    """
    config = {key: value for key, value in folder.config.items() if key != "torch_dtype"}
    ids = _special_ids(folder)
    config |= {"dtype": dtype, "tie_word_embeddings": folder.tied, **ids}
    config.setdefault("architectures", [f"{str(config.get('model_type', 'llama')).capitalize()}ForCausalLM"])
    write_json(out / "config.json", config)
    held = folder.generation_config
    drawn = {key: held[key] for key in _DRAWN if held.get(key) is not None}
    if not drawn and tuned:
        published = Sampling()
        drawn = {"do_sample": True, **{key: getattr(published, key) for key in _DRAWN[1:]}}
    others = {key: value for key, value in held.items() if key not in (*_DRAWN, *ids, "_from_model_config")}
    version = config.get("transformers_version")
    write_json(
        out / GENERATION, {**({"transformers_version": version} if version else {}), **others, **ids, **drawn}
    )


def _special_ids(folder: ModelFolder) -> dict[str, Any]:
    """BOS, EOS and padding: the source's where it names ids that have a token, else the tokenizer's."""
    tokenizer = folder.tokenizer
    own = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    ids = {}
    for key, ours in own.items():
        held = folder.generation_config.get(key, folder.config.get(key))
        named = held if isinstance(held, list) else [held]
        fine = all(isinstance(id, int) and 0 <= id < tokenizer.vocab_size for id in named)
        # Many a LLaMA names no padding, -1, or the unknown piece for it.
        chosen = held if fine and named and not (key == "pad_token_id" and held == tokenizer.unk_id) else ours
        if chosen is not None:
            ids[key] = chosen
    return ids
