"""What a model folder contains: config.json, safetensors weights, a tokenizer, and zhuzi.json, our record."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError, MismatchError
from zhuzi.model import stream, weights
from zhuzi.model.memory import out_of_memory_raised, returned_when_freed
from zhuzi.model.positions import rope_of
from zhuzi.model.stream import Blocks, Progress
from zhuzi.record.json_file import object_or_empty, read_object, write_json
from zhuzi.record.provenance import RECORD, read_record
from zhuzi.record.remembered import remembered
from zhuzi.tokenizer import Tokenizer

# torch takes seconds to load: it is imported by what reads weights, not by what checks a folder.
if TYPE_CHECKING:
    import torch

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
GENERATION = "generation_config.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

# What is fetched from a hub repository: nothing that runs code.
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model"]
_log = logging.getLogger(__name__)
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}  # safetensors' names, torch's


@dataclass(frozen=True)
class ModelFolder:
    """A LLaMA-shaped model on disk: its settings, and where its tensors are; weights are read when used."""

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
        path = local_folder(model)
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise InputError(f"{path}: an adapter; merge it first, with `zhuzi model merge`")
        config = read_json(path / "config.json")
        if "quantization_config" in config:
            raise InputError(f"{path}: a quantised model; name the 16-bit model it was made from")
        tensors = weights.read_headers(path)
        folder = cls(path, config, tensors)
        for name in [EMBEDDING] if folder.tied else [EMBEDDING, HEAD]:
            if name not in tensors or len(tensors[name].shape) != 2:
                raise InputError(
                    f"{path}: no matrix {name} among its weights; only LLaMA-shaped models are supported"
                )
        if tensors[EMBEDDING].dtype not in _DTYPES:
            raise InputError(
                f"{path}: {EMBEDDING} is stored as {tensors[EMBEDDING].dtype}; want F16, BF16 or F32"
            )
        if config.get("vocab_size") != folder.rows:
            says = (
                f"says vocab_size {config['vocab_size']}" if "vocab_size" in config else "has no vocab_size"
            )
            raise InputError(
                f"{path}: config.json {says}, the embedding has {folder.rows} rows; write "
                f'"vocab_size": {folder.rows} into {path / "config.json"}'
            )
        if not folder.tied and tensors[HEAD].shape != tensors[EMBEDDING].shape:
            raise InputError(
                f"{path}: {HEAD} is {list(tensors[HEAD].shape)}, {EMBEDDING} "
                f"{list(tensors[EMBEDDING].shape)}; they must have the same shape: fetch the model again"
            )
        return folder

    @property
    def rows(self) -> int:
        """Rows of the embedding; there may be more than the tokenizer has ids."""
        return self.tensors[EMBEDDING].shape[0]

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding itself."""
        return bool(self.config.get("tie_word_embeddings", False))

    @cached_property
    def original_rows(self) -> int | None:
        """Rows of the first base, before any extension, which come first here; none if no record tells."""
        rows = (read_record(self.path) or {}).get("original_rows")
        if rows is not None and not (isinstance(rows, int) and 0 < rows <= self.rows):
            raise InputError(f"{self.path / RECORD}: original_rows is {rows!r}; want 1 to {self.rows}")
        return rows

    @property
    def dtype_name(self) -> str:
        """The type the weights are stored in (that of the embedding): float16, bfloat16 or float32."""
        return _DTYPES[self.tensors[EMBEDDING].dtype]

    @property
    def dtype(self) -> torch.dtype:
        """`dtype_name` as torch's own."""
        return self.dtype_of(EMBEDDING)

    def dtype_of(self, name: str) -> torch.dtype:
        """The type one of the float tensors is stored in."""
        import torch

        dtype: torch.dtype = getattr(torch, _DTYPES[self.tensors[name].dtype])
        return dtype

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The settings of generation; empty if there is no such file."""
        path = self.path / GENERATION
        return read_json(path) if path.is_file() else {}

    @property
    def _has_chat_template(self) -> bool:
        config = self.path / "tokenizer_config.json"
        if (self.path / "chat_template.jinja").is_file():
            return True
        return config.is_file() and bool(read_json(config).get("chat_template"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's own tokenizer; raises what `Tokenizer.from_dir` raises."""
        return Tokenizer.from_dir(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights (`zhuzi.model.weights.fingerprint`); reads every byte, once."""
        files = {info.file for info in self.tensors.values()}
        return remembered(files, lambda: weights.fingerprint(self.tensors))

    def require_rows(self) -> None:
        """Raise `MismatchError` if an id of the tokenizer has no row. Rows without an id are padding."""
        self.require_rows_of_pieces()
        for id in range(self.rows, self.tokenizer.vocab_size):
            raise MismatchError(
                f"{self.path}: its token {self.tokenizer.id_to_token(id)!r} has the id {id}, its embedding "
                f"{self.rows} rows; to give it one: `zhuzi model extend --model {self.path} --tokenizer "
                f"{self.path} --out NEW`"
            )

    def require_rows_of_pieces(self) -> None:
        """As `require_recorded`; and raise if a piece of the SentencePiece model has no row."""
        self.require_recorded()
        pieces = self.tokenizer.vocab_size - len(self.tokenizer.added_tokens)
        if pieces > self.rows:
            raise MismatchError(
                f"{self.path}: its tokenizer has {pieces} ids, its embedding {self.rows} rows; put the "
                "model's own tokenizer there, and give the larger one to `zhuzi model extend`"
            )

    def require_recorded(self) -> None:
        """Raise `MismatchError` if the tokenizer or the rows are not those that the folder was made with.

        A tokenizer of the same size that was put into the folder later would give every row another token. A
        folder without a record tells nothing.
        """
        record = read_record(self.path) or {}
        theirs, ours = record.get("tokenizer"), self.tokenizer.fingerprint
        if isinstance(theirs, str) and theirs != ours:
            raise MismatchError(
                f"{self.path}: holds another tokenizer ({ours[:12]}) than the one its weights were made with "
                f"({theirs[:12]}); put the model's own back, and give a larger one to `zhuzi model extend`"
            )
        rows = record.get("rows")
        if isinstance(rows, int) and rows != self.rows:
            raise MismatchError(
                f"{self.path}: its embedding has {self.rows} rows, and was made with {rows}; take the folder "
                "from where it was made again"
            )

    def require_one_matrix(self) -> None:
        """Raise `InputError` if embedding and head are tied by config.json, but stored with other values.

        transformers 5 then does not tie them; older versions take the embedding for both. Reads both.
        """
        if not self.tied or HEAD not in self.tensors:
            return
        one, other = (weights.digest(self.tensors[name]) for name in (EMBEDDING, HEAD))
        if one != other:
            raise InputError(
                f"{self.path}: config.json ties {HEAD} to {EMBEDDING}, but their values differ; write "
                f'"tie_word_embeddings": false into {self.path / "config.json"} if both were trained'
            )

    def bytes_in(self, dtype: str) -> int:
        """Bytes of all tensors after those in fp32 are rounded to `dtype`."""
        return sum(
            (info.end - info.begin) // (2 if dtype != "float32" and info.dtype == "F32" else 1)
            for info in self.tensors.values()
        )

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as stored."""
        tensor: torch.Tensor = weights.load_tensor(self.tensors[name].file, name)
        return tensor

    def load(self, dtype: torch.dtype, device: str | torch.device = "cpu", **options: Any) -> Any:
        """The model as transformers' `LlamaForCausalLM` (or similar), on a device, in evaluation mode.

        Raises:
            InputError: transformers cannot build it: config.json is damaged, or not that of the weights.
        """
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with quiet(), returned_when_freed(), out_of_memory_raised():
                model = AutoModelForCausalLM.from_pretrained(
                    self.path, dtype=dtype, device_map={"": device}, **options
                ).eval()
        except (OSError, ImportError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of transformers, the hub client, safetensors or Python itself
            if "CUDA" in str(error):
                raise
            raise InputError(f"{self.path}: transformers cannot load it ({first_line(error)})") from error
        for module in model.modules():
            # bitsandbytes' AVX-512 kernel of 4-bit weights stops at other shapes; its plain one takes all.
            if getattr(module, "support_avx512bf16_for_cpu", False):
                fits = module.out_features % 32 == 0 and module.in_features % module.weight.blocksize == 0
                module.support_avx512bf16_for_cpu = fits
        return model

    def copy(
        self,
        out: Path,
        replaced: Mapping[str, torch.Tensor | Blocks],
        *,
        config: Mapping[str, Any] | None = None,
        round_to: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write the model into the folder `out`, tensor by tensor (memory is bounded by a block of rows).

        Tensors in `replaced` take the place of the folder's own; all others are copied unchanged or, with
        `round_to`, rounded from fp32. `config` is added to config.json. The tokenizer is not copied.
        """
        changed = {
            name: stream.rounded(info, round_to)
            for name, info in self.tensors.items()
            if round_to is not None and info.dtype == "F32"
        }
        changed |= {n: t if isinstance(t, Blocks) else Blocks.of(t) for n, t in replaced.items()}
        shapes = {name: (blocks.dtype, blocks.shape) for name, blocks in changed.items()}
        files = stream.start_files(self.tensors, out, shapes, progress)
        for name, info in self.tensors.items():
            if name in changed:
                files.put(name, changed[name].make())
            elif not files.is_written(name):
                files.copy(name, info)
        self.finish(out, files, config=config)

    def finish(
        self, out: Path, files: stream.TensorFiles, *, config: Mapping[str, Any] | None = None
    ) -> None:
        """Write what belongs to the weights of a copy: their index, config.json, settings of generation."""
        files.require_complete()
        if (self.path / weights.INDEX).is_file():
            index = {**read_json(self.path / weights.INDEX), "metadata": {"total_size": files.size}}
            write_json(out / weights.INDEX, index)
        write_json(out / "config.json", {**self.config, **(config or {})})
        if (self.path / GENERATION).is_file():
            shutil.copyfile(self.path / GENERATION, out / GENERATION)
        if self._has_chat_template:
            _log.warning(f"{self.path}: its chat template is left out, as no text becomes its tokens here")

    def describe(self) -> dict[str, Any]:
        """What a record says about this model, so that a later step can tell whether it is the same."""
        facts = {"path": str(self.path), "fingerprint": self.fingerprint, "rows": self.rows}
        return {**facts, "rope": rope_of(self.config), **self._merged_from}

    @property
    def _merged_from(self) -> dict[str, Any]:
        """Of a merged model, by fingerprint, the base and the adapters that were merged into it, in order."""
        record = read_record(self.path) or {}
        base, adapters = record.get("base"), record.get("adapters")
        if not isinstance(base, dict) or not isinstance(adapters, list):
            return {}
        digests = [one.get("sha256") for one in adapters if isinstance(one, dict)]
        return {"merged_from": {"base": base.get("fingerprint"), "adapters": digests}}

    def has_merged(self, digest: str) -> bool:
        """Whether the record says that the adapter of this digest was merged into this model."""
        merged = self._merged_from.get("merged_from", {})
        return digest in merged.get("adapters", ())


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars unless stderr is a terminal: in a log they are noise."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; `InputError` if there is none."""
    try:
        return read_object(path, InputError)
    except FileNotFoundError:
        raise InputError(f"{path.parent}: holds no {path.name}; {_meant_by(path.parent)}") from None


def _meant_by(folder: Path) -> str:
    """What to name in place of a folder that holds no model; of a training run, what it made."""
    recipe = object_or_empty(folder / "run.json").get("recipe")
    if not isinstance(recipe, Mapping):
        return "name the folder of a model"
    adapter = folder / "adapter"
    if adapter.is_dir():
        return (
            f"it is a training run: merge its adapter with `zhuzi model merge --model {recipe.get('model')} "
            f"--adapter {adapter} --out NEW`, and name NEW"
        )
    done = (folder / "model").is_dir()
    return f"it is a training run: name {folder / 'model'}" + ("" if done else ", which it has not made yet")


def first_line(error: BaseException) -> str:
    """The first line of another library's exception, or its type if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def local_folder(model: str | Path, patterns: Sequence[str] = _HUB_FILES) -> Path:
    """A folder, or that of a hub id whose files of these patterns are fetched.

    Raises:
        InputError: neither; or there are only pickles where the patterns ask for safetensors.
    """
    path = Path(model)
    if path.is_dir():
        return path
    # `owner/name` may be a hub id; anything else can only be a folder.
    if isinstance(model, Path) or model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise InputError(f"{model}: no such folder; name a model folder, or a hub id like owner/name")
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        path = Path(snapshot_download(model, allow_patterns=list(patterns)))
        wanted = "*.safetensors" in patterns and not any(path.glob("*.safetensors"))
        names = list_repo_files(model) if wanted else []
    except Exception as error:  # of the client, of requests or of the OS
        from huggingface_hub.constants import ENDPOINT

        raise InputError(
            f"{model}: no such folder, and {ENDPOINT} does not give it ({first_line(error)}); set "
            "HF_ENDPOINT to a mirror that has it, or download it otherwise and name its folder"
        ) from error
    weights.refuse_pickles(model, names)
    return path
