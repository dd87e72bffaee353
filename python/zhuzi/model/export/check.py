"""Whether an exported model computes what its source does: logits of the same ids, side by side.

The source runs in transformers in fp32, with the weights of one module in memory at a time, so that a model
of any size can be checked. What was written runs in llama.cpp or transformers, as its users will run it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.export.gguf_model import Place, Type, unpermuted
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.model.positions import positions
from zhuzi.vocab.engines import installed

if TYPE_CHECKING:
    import torch

#: The most by which logits may differ, of the largest. llama.cpp rounds the activations to the type of the
#: matrix; rows in a wrong order, or wrong rotary embeddings, differ by more than 0.2.
TOLERANCE: Mapping[Type, float] = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}

_PROBE = (2, 32)


@dataclass(frozen=True)
class Compared:
    """By how much logits differ from the source's."""

    engine: str
    """What computed them, with its version."""
    difference: float
    """max |a - b| / max |b|."""
    same_choice: float
    """Share of the places where the most likely id is the same."""

    def require(self, type: Type, source: Path) -> None:  # noqa: A002  # the option's name
        """Raise `InputError` if the difference is more than rounding to `type` makes."""
        if not self.difference <= TOLERANCE[type]:  # so that NaN fails too
            raise InputError(
                f"{source}: {self.engine} computes other logits from what was written as {type} (they differ "
                f"by {self.difference:.1e}, at most {TOLERANCE[type]:.0e}); nothing was written"
            )


def probe_of(folder: ModelFolder) -> torch.Tensor:
    """[2, 32] ids, the same at every call."""
    import torch

    rows, length = _PROBE
    length = min(length, positions(folder.config) or length)
    limit = min(folder.rows, folder.tokenizer.vocab_size)
    return torch.randint(limit, (rows, length), generator=torch.Generator().manual_seed(0))


def source_logits(folder: ModelFolder, probe: torch.Tensor) -> torch.Tensor:
    """Logits of the source in fp32."""
    return streamed_logits(folder, _Stored(folder), probe)


def streamed_logits(folder: ModelFolder, weights: Mapping[str, Any], probe: torch.Tensor) -> torch.Tensor:
    """Logits of transformers' model with fp32 `weights`, read for each module when it computes."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.hooks import attach_align_device_hook
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder.path)
    # Buffers, the frequencies of rotary embeddings, are computed and not read.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    attach_align_device_hook(model, execution_device="cpu", offload=True, weights_map=weights)
    return _logits(model, probe)


class _Stored(Mapping[str, "torch.Tensor"]):
    """The tensors of a folder in fp32, read when asked for."""

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._folder.read(EMBEDDING if name == HEAD and self._folder.tied else name).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._folder.tensors)

    def __len__(self) -> int:
        return len(self._folder.tensors)


class _Written(Mapping[str, "torch.Tensor"]):
    """The tensors of a GGUF file under transformers' names, in fp32 and in its order, read when asked for."""

    def __init__(self, path: Path, places: list[Place], tied: bool) -> None:
        import gguf

        self._tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        self._places = {place.info.name: place for place in places}
        self._tied = tied

    def __getitem__(self, name: str) -> torch.Tensor:
        import gguf
        import torch

        place = self._places[EMBEDDING if name == HEAD and self._tied else name]
        held = self._tensors[place.name]
        values = torch.from_numpy(gguf.quants.dequantize(held.data, held.tensor_type).copy())
        return unpermuted(values, place.heads) if place.heads else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def compare_gguf(folder: ModelFolder, path: Path, places: list[Place]) -> Compared:
    """The file's logits beside the source's: in llama.cpp, or without it in transformers."""
    probe = probe_of(folder)
    wanted = source_logits(folder, probe)
    version = installed("llama-cpp-python")
    if version is None:
        got = streamed_logits(folder, _Written(path, places, folder.tied), probe)
        return _compared("transformers, with the file's tensors,", got, wanted)
    return _compared(f"llama.cpp (llama-cpp-python {version})", llama_cpp_logits(path, probe), wanted)


def llama_cpp_logits(path: Path, probe: torch.Tensor) -> torch.Tensor:
    """Logits that llama.cpp computes for [texts, length] ids.

    Raises:
        InputError: llama.cpp cannot load the file.
    """
    import llama_cpp
    import torch

    length = probe.shape[1]
    try:
        model = llama_cpp.Llama(
            str(path),
            n_ctx=length,
            n_batch=length,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            logits_all=True,
            verbose=False,
            # Keys and values in fp32, as the source has them; f16 is llama.cpp's default.
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"{path.name}: llama.cpp cannot load what was written ({error})") from error
    try:
        found = []
        for ids in probe.tolist():
            model.reset()
            model.eval(ids)
            found.append(torch.from_numpy(model.scores[:length].copy()))
        return torch.stack(found)
    finally:
        model.close()


def compare_folder(folder: ModelFolder, written: ModelFolder) -> Compared:
    """A written folder's logits beside the source's: loaded by transformers, in parts if memory is short."""
    import torch

    probe = probe_of(folder)
    wanted = source_logits(folder, probe)
    # As stored, in fp32, and some for the work.
    needed = written.bytes_in("float32") * (1.3 if written.dtype_name == "float32" else 2.6)
    got = (
        _logits(written.load(torch.float32), probe)
        if needed < _free_memory()
        else streamed_logits(written, _Stored(written), probe)
    )
    return _compared(f"transformers {installed('transformers')}", got, wanted)


def _free_memory() -> float:
    """Bytes that can be had without swapping; infinite where that is not known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return math.inf


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _compared(engine: str, got: torch.Tensor, wanted: torch.Tensor) -> Compared:
    scale = float(wanted.abs().max())
    apart = float((got - wanted).abs().max())
    difference = apart / scale if scale > 0 and math.isfinite(apart) else (0.0 if apart == 0 else math.nan)
    same = float((got.argmax(-1) == wanted.argmax(-1)).float().mean())
    return Compared(engine, difference, same)
