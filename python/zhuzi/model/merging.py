"""Merge one adapter, part by part, while a probe runs through the model in three ways.

Each part of the model (`layered.py`) is read once: run with the adapter beside it (by PEFT), merged, run
again as a plain part of transformers, rounded and written, and run a third time from what the file then
holds. The merged weights are checked on the way, and no more than a part is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.adapter import AdapterFolder
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.model.layered import AdaptedSkeleton, Part, Skeleton, on, put

if TYPE_CHECKING:
    import torch

    from zhuzi.model.stream import TensorFiles


@dataclass
class Logits:
    """What the probe gave: [2, 32, rows] each."""

    adapted: torch.Tensor
    """Of base plus adapter, in fp32."""
    merged: torch.Tensor
    """Of the merged model, in fp32."""
    stored: torch.Tensor
    """Of the merged model as it was written, computed in fp32."""


class Merge:
    """One adapter being merged into one model."""

    def __init__(
        self, base: ModelFolder, adapter: AdapterFolder, files: TensorFiles, device: torch.device
    ) -> None:
        """`files` are those to write; an adapter that PEFT cannot load is an `InputError`."""
        rows = files.tensors[EMBEDDING].shape[0]
        self.base, self.files, self.device = base, files, device
        self.adapted = AdaptedSkeleton(base, adapter, rows)
        self.plain = Skeleton(base, rows)
        self.changed = adapter.targets(base)
        self._last: Any = None  # what the part before gave, with the adapter
        self._merged: Any = None
        self._stored: Any = None
        self._tied: torch.Tensor | None = None  # the merged embedding, until the head has used it
        self._inputs: Any = None

    def run(self) -> Logits:
        """Write every tensor, and return the logits of a probe."""
        import torch

        for name in set(self.base.tensors) - {n for part in self.plain.parts for n in part.tensors}:
            if not self.files.is_written(name):
                self.files.copy(name, self.base.tensors[name])
        hooks = []
        for part in self.adapted.parts:
            module = self.adapted.module(part)
            hooks.append(module.register_forward_pre_hook(self._before(part)))
            hooks.append(module.register_forward_hook(self._after(part), with_kwargs=True))
        ids = probe(self.files.tensors[EMBEDDING].shape[0]).to(self.device)
        self._last = self._merged = self._stored = ids
        with torch.no_grad():
            logits = self.adapted.adapted(input_ids=ids, use_cache=False).logits
        for hook in hooks:
            hook.remove()
        return Logits(*(t.float().cpu() for t in (logits, self._merged, self._stored)))

    def _before(self, part: Part) -> Any:
        def hook(module: Any, args: Any) -> None:
            self.adapted.load(part)
            self._inputs = on(self.device, module)
            self._inputs.__enter__()

        return hook

    def _after(self, part: Part) -> Any:
        def hook(module: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            self._inputs.__exit__(None, None, None)
            self._require_direct(args)
            self._last = output
            self._place(part)
            plain = self.plain.module(part)
            with on(self.device, plain):
                self._merged = plain(self._merged, *args[1:], **named)
            self._write(part)
            with on(self.device, plain):
                self._stored = plain(self._stored, *args[1:], **named)
            self.plain.drop(part)

        return hook

    def _require_direct(self, args: tuple[Any, ...]) -> None:
        """Raise unless a part was given what the part before it gave."""
        import torch

        if (
            not args
            or args[0].shape != self._last.shape
            or not torch.allclose(args[0], self._last, rtol=0, atol=0, equal_nan=True)
        ):
            raise InputError(
                f"{self.base.path}: only LLaMA-shaped models are merged, not "
                f"{self.base.config.get('model_type')}: its layers do not follow each other directly"
            )

    def _place(self, part: Part) -> None:
        """Merge the part, and give its weights to the plain model."""
        if self.base.tied and part.tensors == (HEAD,):
            assert self._tied is not None
            put(self.plain.places[HEAD], self._tied)
            self._tied = None
        else:
            for name, value in self.adapted.merge(part).items():
                put(self.plain.places[name], value)
                if self.base.tied and name == EMBEDDING:
                    self._tied = value
        self.adapted.drop(part)

    def _write(self, part: Part) -> None:
        """Write the part's tensors, and give the plain model what was written."""
        for name in part.tensors:
            source = EMBEDDING if self.base.tied and name == HEAD else name
            module, attribute = self.plain.places[name]
            if name in self.files.tensors and not self.files.is_written(name):
                if source in self.changed:
                    value = module._parameters[attribute].data
                    self.files.put(name, (b.to(self.base.dtype_of(name)) for b in _blocks(value)))
                else:
                    self.files.copy(name, self.base.tensors[name])
            if source in self.changed:
                put((module, attribute), self.files.read(source).float())


def _blocks(value: torch.Tensor) -> Any:
    return value.split(4096) if value.ndim else [value]


def probe(rows: int) -> torch.Tensor:
    """[2, 32] ids, the same at every call."""
    import torch

    return torch.randint(rows, (2, 32), generator=torch.Generator().manual_seed(0))
