"""Safetensors files written one tensor at a time, in any order, with the memory of one block.

The header is written first: names, types and shapes are known before a weight is read. The bytes are those of
the library's `save_file`, which wants all tensors of a file in memory. What is unchanged is copied as bytes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zhuzi.errors import InputError
from zhuzi.model.weights import ITEM, TensorInfo, load_tensor

if TYPE_CHECKING:
    import torch

#: Called with the bytes written so far, and those of all tensors.
Progress = Callable[[int, int], object]

#: safetensors' names of torch's types.
NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

# The library's order: by type (its enum backwards, so that larger items come first), then by name.
_ORDER = [
    "U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8",
    "BOOL",
]  # fmt: skip
_COPY = 16 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Blocks:
    """A tensor to write that is made some rows at a time."""

    dtype: str
    """By torch's name."""
    shape: tuple[int, ...]
    make: Callable[[], Iterable[torch.Tensor]]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Blocks:
        """A tensor as it is."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), lambda: [tensor])


class TensorFiles:
    """The weights of a model folder, being written."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._progress = progress
        self._written: set[str] = set()
        self._bytes = 0

    def add(self, path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Create a file for tensors of these types (by safetensors' names) and shapes; their bytes follow."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in sorted(shapes, key=lambda name: (_ORDER.index(shapes[name][0]), name)):
            dtype, shape = shapes[name]
            end = at + math.prod(shape) * ITEM[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)
        begin = 8 + len(raw)
        with path.open("xb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(begin + at)
        at = begin
        for name in list(header)[1:]:
            dtype, shape = shapes[name]
            end = at + math.prod(shape) * ITEM[dtype]
            self.tensors[name] = TensorInfo(name, dtype, tuple(shape), path, at, end)
            at = end

    def add_copy(self, path: Path, tensors: Iterable[TensorInfo]) -> None:
        """Copy a whole file, which holds these tensors."""
        tensors = list(tensors)
        shutil.copyfile(tensors[0].file, path)
        for info in tensors:
            self.tensors[info.name] = TensorInfo(
                info.name, info.dtype, info.shape, path, info.begin, info.end
            )
            self._is_written(info.name)

    def put(self, name: str, blocks: Iterable[torch.Tensor]) -> None:
        """Write a tensor, some of its rows at a time."""
        import torch

        info = self.tensors[name]
        with info.file.open("r+b") as file:
            file.seek(info.begin)
            for block in blocks:
                flat = block.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                file.write(memoryview(flat.numpy()))
            written = file.tell()
        if written != info.end:
            raise ValueError(f"{name}: {written - info.begin} bytes were made of {info.end - info.begin}")
        self._is_written(name)

    def copy(self, name: str, source: TensorInfo) -> None:
        """Copy the bytes of a tensor of the same type and shape."""
        info = self.tensors[name]
        left = source.end - source.begin
        with source.file.open("rb") as held, info.file.open("r+b") as file:
            held.seek(source.begin)
            file.seek(info.begin)
            while left:
                part = held.read(min(left, _COPY))
                if not part:
                    raise InputError(
                        f"{source.file}: cannot be read (it ends within {source.name}); make or fetch the "
                        "file again"
                    )
                file.write(part)
                left -= len(part)
        self._is_written(name)

    def read(self, name: str) -> torch.Tensor:
        """A tensor that was written, from the file."""
        tensor: torch.Tensor = load_tensor(self.tensors[name].file, name)
        return tensor

    def is_written(self, name: str) -> bool:
        """Whether a tensor's bytes are there."""
        return name in self._written

    def require_complete(self) -> None:
        """Raise `ValueError` if a tensor was not written."""
        if missing := set(self.tensors) - self._written:
            raise ValueError(f"{min(missing)}: not written (and {len(missing) - 1} more)")

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(info.end - info.begin for info in self.tensors.values())

    def _is_written(self, name: str) -> None:
        self._written.add(name)
        self._bytes += self.tensors[name].end - self.tensors[name].begin
        if self._progress is not None:
            self._progress(self._bytes, self.size)


def start_files(
    tensors: Mapping[str, TensorInfo],
    out: Path,
    replaced: Mapping[str, tuple[str, tuple[int, ...]]],
    progress: Progress | None = None,
) -> TensorFiles:
    """Files in the folder `out` like those that hold `tensors`, in which those `replaced` have other shapes.

    `replaced` has a type (by torch's name) and a shape for each tensor that will be written. Files that hold
    none of these are copied at once.
    """
    made = TensorFiles(progress)
    copied: list[tuple[Path, list[TensorInfo]]] = []
    for file in sorted({info.file for info in tensors.values()}):
        held = {name: info for name, info in tensors.items() if info.file == file}
        if not set(held) & set(replaced):
            copied.append((out / file.name, list(held.values())))
            continue
        shapes = {name: (info.dtype, info.shape) for name, info in held.items()}
        shapes |= {n: (NAMES[replaced[n][0]], replaced[n][1]) for n in set(held) & set(replaced)}
        made.add(out / file.name, shapes)
    for path, infos in copied:
        made.add_copy(path, infos)
    return made


def rounded(info: TensorInfo, dtype: str) -> Blocks:
    """A tensor in another type, some millions of elements at a time."""

    def make() -> Iterator[torch.Tensor]:
        import torch

        flat = load_tensor(info.file, info.name).reshape(-1)
        for part in flat.split(_COPY // 4):
            yield part.to(getattr(torch, dtype))

    return Blocks(dtype, info.shape, make)
