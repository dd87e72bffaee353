"""What a model folder holds: config.json, safetensors weights, a tokenizer, and zhuzi.json, our record."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zhuzi.errors import InputError, MismatchError
from zhuzi.model import weights
from zhuzi.tokenizer import Tokenizer

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
RECORD = "zhuzi.json"

# What is fetched of a hub repository: nothing that runs code.
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model"]
_TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class ModelFolder:
    """A LLaMA-shaped model on disk: its settings, and where each tensor lies; weights are read when used."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, weights.TensorInfo]

    @classmethod
    def open(cls, model: str | Path) -> ModelFolder:
        """Open a local folder, or fetch `owner/name` from the Hugging Face hub.

        Raises:
            InputError: no such folder or repository, no safetensors weights, a damaged file, or a model
                without LLaMA's embedding and head.
        """
        path = _local(model)
        config = read_json(path / "config.json")
        if "quantization_config" in config:
            raise InputError(f"{path}: a quantised model; name the 16-bit model it was made from")
        tensors = weights.read_headers(path)
        folder = cls(path, config, tensors)
        for name in [EMBEDDING] if folder.tied else [EMBEDDING, HEAD]:
            if name not in tensors or len(tensors[name].shape) != 2:
                raise InputError(
                    f"{path}: no matrix {name} among its weights; only LLaMA-shaped models are taken"
                )
        if tensors[EMBEDDING].dtype not in _TORCH:
            raise InputError(
                f"{path}: {EMBEDDING} is stored as {tensors[EMBEDDING].dtype}; want F16, BF16 or F32"
            )
        if config.get("vocab_size") != folder.rows:
            raise InputError(
                f"{path}: config.json says vocab_size {config.get('vocab_size')}, the embedding has "
                f"{folder.rows} rows"
            )
        return folder

    @property
    def rows(self) -> int:
        """Rows of the embedding; at least as many as the tokenizer has ids."""
        return self.tensors[EMBEDDING].shape[0]

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding itself."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def dtype(self) -> torch.dtype:
        """The type the weights are stored in (that of the embedding)."""
        return _TORCH[self.tensors[EMBEDDING].dtype]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's own tokenizer; raises what `Tokenizer.from_dir` raises."""
        return Tokenizer.from_dir(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights (`zhuzi.model.weights.fingerprint`); reads every byte of them once."""
        return weights.fingerprint(self.tensors)

    def require_rows(self) -> None:
        """Raise `MismatchError` if an id of the tokenizer has no row. Rows without id are padding: fine."""
        ids = self.tokenizer.vocab_size
        if ids > self.rows:
            raise MismatchError(
                f"{self.path}: its tokenizer has {ids} ids, its embedding {self.rows} rows; put the model's "
                "own tokenizer there, and give the larger one to `zhuzi model extend`"
            )

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as stored."""
        with safe_open(self.tensors[name].file, framework="pt") as file:
            return file.get_tensor(name)

    def load(self, dtype: torch.dtype, device: str | torch.device = "cpu", **options: Any) -> Any:
        """The model as transformers' `LlamaForCausalLM` (or its like), on a device, in evaluation mode."""
        from transformers import AutoModelForCausalLM

        with quiet():
            return AutoModelForCausalLM.from_pretrained(
                self.path, dtype=dtype, device_map={"": device}, **options
            ).eval()

    def copy(
        self,
        out: Path,
        replaced: Mapping[str, torch.Tensor],
        *,
        config: Mapping[str, Any] | None = None,
        round_to: torch.dtype | None = None,
    ) -> None:
        """Write the model into the folder `out`, file by file (memory is bounded by the largest file).

        Tensors in `replaced` stand in for the folder's own; every other one is copied unchanged, or, with
        `round_to`, rounded from fp32. `config` adds to config.json. The tokenizer is not copied.
        """
        for file in sorted({info.file for info in self.tensors.values()}):
            names = {name for name, info in self.tensors.items() if info.file == file}
            if round_to is None and not names & set(replaced):
                shutil.copyfile(file, out / file.name)
                continue
            held = load_file(file)
            if round_to is not None:
                held = {n: t.to(round_to) if t.dtype == torch.float32 else t for n, t in held.items()}
            held |= {name: replaced[name].contiguous() for name in names & set(replaced)}
            save_file(held, out / file.name, metadata={"format": "pt"})
        if (self.path / weights.INDEX).is_file():
            index = read_json(self.path / weights.INDEX)
            write_json(out / weights.INDEX, index)
            size = sum(info.end - info.begin for info in weights.read_headers(out).values())
            write_json(out / weights.INDEX, {**index, "metadata": {"total_size": size}})
        write_json(out / "config.json", {**self.config, **(config or {})})
        if (self.path / "generation_config.json").is_file():
            shutil.copyfile(self.path / "generation_config.json", out / "generation_config.json")

    def describe(self) -> dict[str, Any]:
        """What a record says about this model, so that a later step can tell whether it is the same one."""
        return {"path": str(self.path), "fingerprint": self.fingerprint, "rows": self.rows}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers where nobody looks: in a log they are noise."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def write_record(folder: Path, kind: str, **facts: Any) -> None:
    """Write zhuzi.json: what a folder is, what it was made from, and by which version."""
    write_json(folder / RECORD, {"format": 1, "kind": kind, "zhuzi": version("zhuzi"), **facts})


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, UTF-8, one newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object a file of a model folder holds; `InputError` if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path.parent}: holds no {path.name}; name the folder of a model") from None
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: want a JSON object")
    return cast(dict[str, Any], value)


def _local(model: str | Path) -> Path:
    path = Path(model)
    if path.is_dir():
        return path
    # `owner/name` may be a hub id; anything else can only have been meant as a folder.
    if isinstance(model, Path) or model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise InputError(f"{model}: no such folder; name a model folder, or a hub id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except Exception as error:  # the client raises kinds of its own, of requests' and of the OS
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{model}: no such folder, and the hub does not give it ({reason})") from error
