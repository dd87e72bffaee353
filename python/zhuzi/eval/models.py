"""The models that are compared: folders, and adapters on their bases. Checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi.errors import InputError, naming
from zhuzi.infer.chat import Bits, Chat, device_of, open_model
from zhuzi.infer.gguf import GgufFile
from zhuzi.infer.template import Template
from zhuzi.infer.templates import usable_template
from zhuzi.model.adapter import AdapterFolder
from zhuzi.model.folder import ADAPTER_FILES, ModelFolder
from zhuzi.model.positions import rope_of

# Folders that a training run names so: the name of the run says more.
_PLAIN_NAMES = {"adapter", "model"}


@dataclass(frozen=True)
class ModelToCompare:
    """A model folder, or an adapter and its base."""

    name: str
    """Short, and different from the others'."""
    path: Path
    folder: ModelFolder | GgufFile
    """The model, or the adapter's base."""
    adapter: AdapterFolder | None = None

    @property
    def fingerprint(self) -> str:
        """Of the weights; reads every byte, once. An adapter's is that of its tensors' file."""
        return self.adapter.digest if self.adapter else self.folder.fingerprint

    @property
    def template(self) -> Template:
        """The template that questions are asked in; raises as `usable_template` does."""
        if isinstance(self.folder, GgufFile):
            return self.folder.template
        tuned = self.adapter.path if self.adapter else self.folder.path
        return usable_template(tuned, self.folder.tokenizer)

    def load(self, device: str | None = None, bits: Bits | None = None) -> Chat:
        """The model with its tokenizer; as `Chat.from_dir`. An adapter is put on its base as it is."""
        import torch

        if self.adapter is None or isinstance(self.folder, GgufFile):
            return Chat.load(self.folder, device=device, bits=bits)
        if bits is not None:
            raise ValueError(f"bits: {self.path} is an adapter; merge it first, with `zhuzi model merge`")
        from zhuzi.model.adapted import load_adapted

        place = device_of(device)
        dtype = torch.float32 if place.type == "cpu" else self.folder.dtype
        live = load_adapted(self.folder, self.adapter, dtype, place)
        return Chat(live, self.folder.tokenizer, self.template)


def scaling(opened: Sequence[ModelToCompare]) -> dict[str, Any]:
    """What the weights' fingerprints do not tell, for a measurement's facts: how RoPE is scaled, if it is."""
    ropes = {model.name: rope_of(model.folder.config) for model in opened}
    scaled = {name: rope for name, rope in ropes.items() if rope["rope_type"] != "default"}
    return {"rope": scaled} if scaled else {}


def open_models(
    models: Sequence[str | os.PathLike[str]], base: str | os.PathLike[str] | None = None
) -> list[ModelToCompare]:
    """Open model folders and adapters.

    Args:
        base: the base of adapters; by default that which the adapter's record names.

    Raises:
        InputError: a folder that holds neither, an adapter that does not tell its base.
        MismatchError: an adapter that was made on another base, a tokenizer with ids that have no row.
        ValueError: a model given twice.
    """
    names = _names([Path(model) for model in models])
    return [_open(name, Path(model), base) for name, model in zip(names, models, strict=True)]


def _open(name: str, path: Path, base: str | os.PathLike[str] | None) -> ModelToCompare:
    if not (path / ADAPTER_FILES[0]).is_file() or (path / "config.json").is_file():
        return ModelToCompare(name, path, open_model(path if path.exists() else str(path)))
    adapter = AdapterFolder.open(path)
    recorded = (adapter.record or {}).get("base")
    recorded = recorded.get("path") if isinstance(recorded, dict) else None
    if base is None and not isinstance(recorded, str):
        raise naming(InputError, f"{path}: does not tell its base; name it with ", ("base", None))
    try:
        folder = open_model(os.fspath(base) if base is not None else str(recorded))
        if isinstance(folder, GgufFile):
            raise InputError(f"{folder.path}: a GGUF file; an adapter goes on a model folder")
    except InputError as error:
        if base is not None:
            raise
        raise naming(InputError, f"{path}: its base: {error}; name the base with ", ("base", None)) from None
    adapter.require_fitting(folder)
    adapter.require_whole()
    adapter.require_made_on(folder)
    return ModelToCompare(name, path, folder, adapter)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest names that tell the folders apart."""
    places = [path.absolute() for path in paths]
    if len(set(places)) < len(places):
        twice = next(path for path, place in zip(paths, places, strict=True) if places.count(place) > 1)
        raise ValueError(f"{twice}: given twice; name each model once")
    parts = [place.parts for place in places]
    lengths = [2 if place.name in _PLAIN_NAMES and len(place.parts) > 2 else 1 for place in places]
    while True:
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        same = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not same or all(lengths[i] >= len(parts[i]) for i in same):
            return names
        for i in same:
            lengths[i] = min(lengths[i] + 1, len(parts[i]))
