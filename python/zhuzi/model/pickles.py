"""Tensors of torch's own files, `.bin` and `.pth`, without running what is in them.

Such a file is a zip of the tensors' bytes and a pickle that names them. torch's restricted unpickler builds
tensors and nothing else. The bytes stay in the file: tensors are mapped into memory, not read.
"""

from __future__ import annotations

import errno
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.folder import first_line
from zhuzi.model.stream import NAMES

if TYPE_CHECKING:
    import torch

#: The pickle alone, which names the tensors: some hundred bytes for each.
_MAX_PICKLE = 256 << 20

# Under these names some programs store the weights beside what else they keep.
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")


def load_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; their bytes are read from the file when they are used.

    Raises:
        InputError: the file would run code, is damaged or truncated, or holds something else than tensors.
    """
    import torch

    mapped = _require_sound(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: loading it would run code, or build more than tensors ({_reason(error)}); "
            "take the weights as safetensors, from somebody whom you trust"
        ) from error
    except (RuntimeError, ValueError, TypeError, LookupError, EOFError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a seek to before the beginning
            raise
        raise InputError(f"{path}: torch cannot read it ({first_line(error)}); fetch it again") from error
    while isinstance(held, dict) and (inner := [held[name] for name in _WRAPPERS if name in held]):
        if not isinstance(inner[0], dict):
            break
        held = inner[0]
    if not isinstance(held, dict) or not held:
        raise InputError(f"{path}: holds no tensors by name; name a file of weights")
    return {name: _checked(path, name, value) for name, value in held.items()}


def _require_sound(path: Path) -> bool:
    """Whether the file can be mapped (torch 1.6 and later write a zip); `InputError` for a zip of tricks."""
    if path.stat().st_size == 0:
        raise InputError(f"{path}: an empty file; fetch it again")
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as held:
            entries = held.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: a damaged zip ({first_line(error)}); fetch it again") from error
    size = path.stat().st_size
    for entry in entries:
        # torch stores everything as it is; what is packed may unpack to any size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            raise InputError(
                f"{path}: not as torch writes it ({entry.filename} is compressed); fetch it again"
            )
        if entry.filename.endswith(".pkl") and entry.file_size > _MAX_PICKLE:
            raise InputError(f"{path}: its {entry.filename} of {entry.file_size:,} bytes names no weights")
    return True


def _checked(path: Path, name: object, value: Any) -> torch.Tensor:
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise InputError(
            f"{path}: {name!r} is a {type(value).__name__}, not a tensor; name a file of weights"
        )
    value = value.detach()
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in NAMES or value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise InputError(f"{path}: {name} is a tensor of {kind}, {value.layout}; want plain numbers")
    # A view may name more elements than are stored, up to any number.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path}: {name} has {value.numel():,} elements, more than its file; fetch it again")
    return value


def _reason(error: Exception) -> str:
    """What torch's unpickler stopped at, without its advice to trust the file."""
    text = str(error)
    for line in text.splitlines():
        for start in ("Unsupported global:", "WeightsUnpickler error:", "Unsupported class", "Trying to"):
            if start in line:
                return line[line.index(start) :].split(" was not an allowed")[0].strip()
    return first_line(error)
