"""Models and adapters in torch's own files (`.bin`, `.pth`) as safetensors."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zhuzi._show import Report, count
from zhuzi.errors import InputError
from zhuzi.model import stream, weights
from zhuzi.model.folder import ADAPTER_FILES, local_folder, read_json
from zhuzi.model.meta_layout import is_meta, meta_files, to_transformers
from zhuzi.model.pickles import load_pickled
from zhuzi.model.stream import Blocks, Progress, TensorFiles
from zhuzi.record.disk import require_space, sha256
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_folder
from zhuzi.record.place import require_free
from zhuzi.record.provenance import CONVERTED_ADAPTER, write_record

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("zhuzi.model")

#: What is fetched from a hub repository.
_HUB_FILES = ["*.bin", "*.pth", "*.json", "tokenizer.model", "chat_template.jinja"]
# Carried along where they exist: what describes a model, its tokenizer or its use, and runs no code.
_CARRIED = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.model", "tokenizer.json"),
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
)
_ADAPTER = "adapter_model.bin"
_ROWS = 4096  # written at a time


@dataclass(frozen=True, repr=False)
class ConvertReport(Report):
    """What `convert_model` wrote."""

    out: Path
    kind: Literal["model", "adapter"]
    tensors: int
    bytes: int
    files: tuple[str, ...]  # that were read

    def _headline(self) -> str:
        return f"{self.out}: {count(self.tensors, 'tensor')} of {count(len(self.files), 'file')}"


def convert_model(
    model: str | Path, out: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> ConvertReport:
    """Write a model or adapter that is stored in torch's pickled files as safetensors, bit for bit.

    Loading such a file runs what its author put into it. Here it is read by torch's restricted unpickler,
    which builds tensors and nothing else, and refused if it wants more. Tensors are mapped into memory and
    written one at a time. Config, settings of generation and the tokenizer's files come along.

    Args:
        model: a folder or hub id, with `pytorch_model.bin` or its parts, `adapter_model.bin`, or weights as
            Meta published them (`consolidated.00.pth`, `params.json`), which also get transformers' names,
            order of rows and config.json.
        progress: called with the bytes written, and those to write.

    Raises:
        InputError: no such files, a file that would run code, or a damaged one.
        OutputExistsError: `out` holds something and `overwrite` is not set.
    """
    out = Path(out)
    require_free(out, overwrite=overwrite, inputs=[model])
    folder = local_folder(model, _HUB_FILES)
    kind, files = _files(folder)
    size = sum(file.stat().st_size for file in files)
    require_space(out, size)
    _log.info(f"converting {count(len(files), 'file')} of {folder}")
    if not (folder / "tokenizer.model").is_file() and kind == "model":
        _log.warning(f"{folder}: holds no tokenizer.model; put the model's own into {out}")
    with new_folder(out, overwrite=overwrite, inputs=[model, folder], size=size) as made:
        written = TensorFiles(progress)
        if is_meta(folder) and kind == "model":
            _convert_meta(folder, files, made, written)
        else:
            _convert(folder, files, made, written)
        for name in _CARRIED:
            if (folder / name).is_file() and not (made / name).exists():
                shutil.copyfile(folder / name, made / name)
        write_record(
            made,
            CONVERTED_ADAPTER if kind == "adapter" else "converted model",
            converted={"path": str(folder), "files": {file.name: sha256(file) for file in files}},
        )
    names = tuple(file.name for file in files)
    return ConvertReport(out, kind, len(written.tensors), written.size, names)


def _files(folder: Path) -> tuple[Literal["model", "adapter"], list[Path]]:
    """What the folder holds, and the files that hold its weights."""
    if (folder / ADAPTER_FILES[0]).is_file() and not (folder / "config.json").is_file():
        if not (folder / _ADAPTER).is_file():
            raise InputError(f"{folder}: holds no {_ADAPTER}; there is nothing to convert")
        return "adapter", [folder / _ADAPTER]
    if any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: holds safetensors already; there is nothing to convert")
    if is_meta(folder):
        return "model", meta_files(folder)
    index = folder / "pytorch_model.bin.index.json"
    if index.is_file():
        places = read_json(index).get("weight_map")
        names = sorted(set(places.values())) if isinstance(places, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"{index}: no weight_map can be read from it; fetch it again")
        for name in names:
            # A name, never a path: an index must not lead out of its folder.
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"{index}: names {name!r}, which the folder does not hold; fetch it again")
    else:
        names = [name for name in ("pytorch_model.bin", "pytorch_model.pth") if (folder / name).is_file()][:1]
    if not names:
        raise InputError(
            f"{folder}: holds no pytorch_model.bin (nor its parts, {_ADAPTER} or consolidated.00.pth with "
            "params.json); name the folder of a model or adapter"
        )
    read_json(folder / "config.json")  # a model without it cannot be used
    return "model", [folder / name for name in names]


def _convert(folder: Path, files: list[Path], out: Path, written: TensorFiles) -> None:
    """Each file as one of the same name, with an index if there are several."""
    held: list[tuple[Path, dict[str, torch.Tensor]]] = []
    seen: set[str] = set()
    for file in files:
        tensors = load_pickled(file)
        if twice := seen & set(tensors):
            raise InputError(f"{file}: holds {min(twice)}, which another file holds too; fetch both again")
        seen |= set(tensors)
        name = file.name.removesuffix(file.suffix).replace("pytorch_model", "model") + ".safetensors"
        held.append((out / name, tensors))
    _write([(path, {n: _blocks_of(t) for n, t in tensors.items()}) for path, tensors in held], out, written)


def _convert_meta(folder: Path, files: list[Path], out: Path, written: TensorFiles) -> None:
    """Meta's files, a file for each decoder layer and one for the rest."""
    tensors, config = to_transformers(folder, [load_pickled(file) for file in files])
    layers = config["num_hidden_layers"]
    groups: list[tuple[Path, dict[str, Blocks]]] = []
    for number in range(layers + 1):
        prefix = f"model.layers.{number}."
        own = {n: t for n, t in tensors.items() if n.startswith(prefix)}
        if number == layers:
            own = {n: t for n, t in tensors.items() if not n.startswith("model.layers.")}
        groups.append((out / f"model-{number + 1:05}-of-{layers + 1:05}.safetensors", own))
    if sum(len(own) for _, own in groups) != len(tensors):
        raise InputError(f"{folder}: its layers are not numbered from 0 on; fetch it again")
    _write(groups, out, written)
    write_json(out / "config.json", config)


def _write(groups: list[tuple[Path, dict[str, Blocks]]], out: Path, written: TensorFiles) -> None:
    for path, tensors in groups:
        written.add(path, {n: (stream.NAMES[t.dtype], t.shape) for n, t in tensors.items()})
    for _, tensors in groups:
        for name, blocks in tensors.items():
            written.put(name, blocks.make())
    written.require_complete()
    if len(groups) > 1:
        places = {name: path.name for path, tensors in groups for name in sorted(tensors)}
        index = {"metadata": {"total_size": written.size}, "weight_map": places}
        write_json(out / weights.INDEX, index)


def _blocks_of(tensor: torch.Tensor) -> Blocks:
    whole = Blocks.of(tensor)
    return Blocks(whole.dtype, whole.shape, lambda: tensor.split(_ROWS) if tensor.ndim else [tensor])
