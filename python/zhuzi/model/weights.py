"""The tensors of a model folder: where each is stored, and one fingerprint of them all.

The safetensors header is read here, with every bound checked, and not by the library: the fingerprint needs
the raw bytes in place (memory-mapped, no copy, no torch), and the error for a damaged download should name
the file. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from zhuzi.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: Bytes of one element, by the type's name.
ITEM = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_MAX_HEADER = 100_000_000  # bytes: the library's own limit


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file: its type (as the file names it), shape and byte range."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, by name.

    Raises:
        InputError: the file is truncated or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise InputError(
                f"{path}: not a safetensors file, or a truncated one ({size} bytes); fetch it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: the safetensors header cannot be read ({error}); fetch it again"
        ) from error

    end = 8 + length
    for info in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if info.begin != end:
            raise InputError(
                f"{path}: tensor {info.name} overlaps another or leaves a gap; fetch the file again"
            )
        end = info.end
    if end != size:
        raise InputError(f"{path}: holds {size} bytes where its header promises {end}; fetch it again")
    return tensors


def _tensor(path: Path, name: str, entry: Mapping[str, Any], data: int) -> TensorInfo:
    dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
    begin, end = (data + int(offset) for offset in entry["data_offsets"])
    if dtype not in ITEM:
        raise ValueError(f"tensor {name} has the unknown type {dtype}")
    if min(shape, default=0) < 0 or begin < data or end - begin != math.prod(shape) * ITEM[dtype]:
        raise ValueError(f"tensor {name}: {end - begin} bytes do not make the shape {list(shape)} of {dtype}")
    return TensorInfo(name, dtype, shape, path, begin, end)


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a model folder, over all its safetensors files, by name.

    Raises:
        InputError: no safetensors weights, a file missing or damaged, or files that differ from their index.
    """
    if (folder / INDEX).is_file():
        return _read_indexed(folder)
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    refuse_pickles(folder, (path.name for path in folder.iterdir()))
    raise InputError(f"{folder}: holds no {SINGLE} (nor {INDEX}); name the folder of a model")


def refuse_pickles(model: str | Path, names: Iterable[str]) -> None:
    """Raise `InputError` if the weights of a model come only as pickles."""
    names = list(names)
    pickled = any(name.startswith("pytorch_model") and name.endswith(".bin") for name in names)
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            f"{model}: holds only pytorch_model.bin, a pickle that runs code when it is loaded; convert it, "
            f"which runs none: `zhuzi model convert --model {model} --out NEW`"
        )


def load_tensor(path: Path, name: str) -> Any:
    """One tensor of a safetensors file, for torch; `InputError` if the library cannot read it."""
    with _readable(path), safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def load_tensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file, for torch; `InputError` if the library cannot read it."""
    with _readable(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be read ({error}); make or fetch the file again") from error


def _read_indexed(folder: Path) -> dict[str, TensorInfo]:
    index = folder / INDEX
    try:
        places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{index}: no weight_map can be read from it ({error}); fetch it again") from error
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        # A name, never a path: an index must not lead out of its folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{index}: names {name!r}, which the folder does not hold; fetch it again")
        found = read_header(folder / name)
        if set(found) != {tensor for tensor, file in places.items() if file == name}:
            raise InputError(f"{folder / name}: holds other tensors than {INDEX} says; fetch both again")
        tensors |= found
    return tensors


def fingerprint(tensors: Mapping[str, TensorInfo]) -> str:
    """sha256 (hex) over (name, type, shape, bytes) of the tensors sorted by name.

    It does not depend on how the tensors are spread over files, or on their order in a file.
    """
    infos = [tensors[name] for name in sorted(tensors)]
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        digests = list(pool.map(digest, infos))
    whole = hashlib.sha256()
    for info, found in zip(infos, digests, strict=True):
        whole.update(json.dumps([info.name, info.dtype, list(info.shape), found]).encode() + b"\n")
    return whole.hexdigest()


def digest(info: TensorInfo) -> str:
    """sha256 (hex) of a tensor's bytes."""
    if info.begin == info.end:
        return hashlib.sha256().hexdigest()
    with (
        info.file.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
        view[info.begin : info.end] as part,
    ):
        return hashlib.sha256(part).hexdigest()
