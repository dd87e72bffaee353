"""A GGUF file as a model: llama.cpp computes, and everything around it is as for a model of transformers.

llama.cpp itself reads the file, its vocabulary and its settings. The vocabulary becomes a SentencePiece model
again, so that ids are ours (and sentencepiece's) to the last one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.infer.template import ALPACA, Template
from zhuzi.record.disk import sha256
from zhuzi.record.remembered import remembered
from zhuzi.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

_MAGIC = b"GGUF"

# llama.cpp's kind of vocabularies that SentencePiece's BPE makes, and its attributes of tokens.
_SPM = 1
_KINDS = {1: "UNKNOWN", 2: "UNUSED", 4: "NORMAL", 8: "CONTROL", 16: "USER_DEFINED", 32: "BYTE"}
_SENTENCEPIECE = {"NORMAL": 1, "UNKNOWN": 2, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5, "BYTE": 6}

# Bytes of a value of the file's settings, at most; templates are the longest.
_LONGEST_VALUE = 1 << 20


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a GGUF file, by its first bytes or its ending."""
    path = Path(path)
    if not path.is_file():
        return path.suffix.lower() == ".gguf" and not path.is_dir()
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file with a LLaMA: what is known before its weights are loaded."""

    path: Path
    tokenizer: Tokenizer
    template: Template
    config: dict[str, Any]
    """What of transformers' config.json the file tells: positions, special ids."""
    unusable: str | None = None
    """Why the file's own template cannot be used; `template` is then the published one."""

    @classmethod
    def open(cls, path: str | Path) -> GgufFile:
        """Read vocabulary and settings.

        Raises:
            InputError: no such file, one that llama.cpp cannot read, or without a SentencePiece vocabulary.
            ImportError: llama-cpp-python is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; name a GGUF file or a model folder")
        with _loaded(path, vocab_only=True) as held:
            tokenizer = _tokenizer(held, path)
            source = held.setting("tokenizer.chat_template")
            positions = held.setting(f"{held.setting('general.architecture')}.context_length")
            ends = {held.api.llama_vocab_eos(held.vocab), held.api.llama_vocab_eot(held.vocab)}
        config = {
            "max_position_embeddings": int(positions) if positions and positions.isdecimal() else None,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": sorted(id for id in ends if 0 <= id < tokenizer.vocab_size),
        }
        template, unusable = _template(source, path, tokenizer)
        return cls(path, tokenizer, template, config, unusable)

    @property
    def generation_config(self) -> dict[str, Any]:
        """The ids that end an answer, as a model folder's settings name them."""
        return {"eos_token_id": self.config["eos_token_id"]}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file; reads every byte, once."""
        return remembered({self.path}, lambda: sha256(self.path))

    def load(self) -> GgufModel:
        """The model; its weights are mapped into memory, and read as they are used.

        Raises:
            InputError: llama.cpp cannot load it.
        """
        return GgufModel(self)


def _template(source: str | None, path: Path, tokenizer: Tokenizer) -> tuple[Template, str | None]:
    """The template of a file, or the published one and why not that of the file."""
    if source is None or source == ALPACA.jinja:
        return ALPACA, None
    try:
        from zhuzi.infer.jinja import JinjaTemplate

        template = JinjaTemplate(f"of {path.name}", source)
        template.require(tokenizer)
    except (InputError, ModuleNotFoundError) as error:
        return ALPACA, str(error)
    return template, None


class _Held:
    """A model in llama.cpp."""

    def __init__(self, path: Path, *, vocab_only: bool) -> None:
        import llama_cpp
        from llama_cpp._logger import set_verbose

        set_verbose(False)
        self.api: Any = llama_cpp
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = vocab_only
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise InputError(f"{path}: llama.cpp cannot load it; make or fetch the file again")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def setting(self, key: str) -> str | None:
        """A setting of the file as text; None if it has no such setting."""
        size = self.api.llama_model_meta_val_str(self.model, key.encode(), None, 0)
        if size < 0 or size > _LONGEST_VALUE:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self.api.llama_model_meta_val_str(self.model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        if self.model:
            self.api.llama_model_free(self.model)
            self.model = None


@contextmanager
def _loaded(path: Path, *, vocab_only: bool) -> Iterator[_Held]:
    held = _Held(path, vocab_only=vocab_only)
    try:
        yield held
    finally:
        held.close()


def _tokenizer(held: _Held, path: Path) -> Tokenizer:
    """The file's vocabulary as a SentencePiece model, without the unused pieces at its end (padding)."""
    from sentencepiece import sentencepiece_model_pb2

    api, vocab = held.api, held.vocab
    if api.llama_vocab_type(vocab) != _SPM:
        raise InputError(
            f"{path}: its vocabulary is not a SentencePiece BPE; take a LLaMA 1 or 2, or Mistral"
        )
    pieces = [
        (
            api.llama_vocab_get_text(vocab, id),
            api.llama_vocab_get_score(vocab, id),
            _kind(api.llama_vocab_get_attr(vocab, id)),
        )
        for id in range(api.llama_vocab_n_tokens(vocab))
    ]
    while pieces and pieces[-1][2] == "UNUSED":
        pieces.pop()
    model: Any = sentencepiece_model_pb2.ModelProto()
    for text, score, kind in pieces:
        model.pieces.add(piece=text.decode("utf-8", "replace"), score=score, type=_SENTENCEPIECE[kind])
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = 2  # BPE
    trainer.byte_fallback = True
    trainer.vocab_size = len(pieces)
    unknown = [id for id, piece in enumerate(pieces) if piece[2] == "UNKNOWN"]
    for name, id in (
        ("unk", unknown[0] if unknown else -1),
        ("bos", api.llama_vocab_bos(vocab)),
        ("eos", api.llama_vocab_eos(vocab)),
        ("pad", api.llama_vocab_pad(vocab)),
    ):
        if 0 <= id < len(pieces):
            setattr(trainer, f"{name}_piece", pieces[id][0].decode("utf-8", "replace"))
            setattr(trainer, f"{name}_id", id)
        else:
            setattr(trainer, f"{name}_id", -1)
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = held.setting("tokenizer.ggml.add_space_prefix") != "false"
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return Tokenizer(model.SerializeToString(), origin=str(path))


def _kind(attributes: int) -> str:
    return next((name for bit, name in _KINDS.items() if attributes & bit), "NORMAL")


class GgufModel:
    """A GGUF model in llama.cpp that is called as a causal language model of transformers.

    Keys and values of one sequence are in a context of llama.cpp; contexts of sequences that ended are used
    again. All is computed on the CPU (or what llama.cpp was built for), whatever torch's device.
    """

    training = False

    def __init__(self, file: GgufFile) -> None:
        import torch

        self._held = _Held(file.path, vocab_only=False)
        self._idle: list[_Context] = []
        self._all: list[_Context] = []  # none is freed before the model is, in whatever order
        self._positions = file.config["max_position_embeddings"] or 2048
        self._rows = self._held.api.llama_vocab_n_tokens(self._held.vocab)
        self._place = torch.zeros(1)
        self.config = SimpleNamespace(**file.config, to_dict=lambda: dict(file.config))

    def parameters(self) -> Iterator[torch.Tensor]:
        """One tensor that shows where ids are expected: on the CPU."""
        return iter([self._place])

    def eval(self) -> GgufModel:
        """Nothing to do: there is no other mode."""
        return self

    def train(self, mode: bool = True) -> GgufModel:
        """Nothing to do: there is no other mode."""
        return self

    def __call__(self, **keywords: Any) -> Any:
        """As transformers' models: `forward`."""
        return self.forward(**keywords)

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: torch.Tensor | None = None,
    ) -> SimpleNamespace:
        """Logits of [texts, length] ids in fp32; with `use_cache` those after the last id alone.

        Args:
            past_key_values: what the call before gave, whose ids these follow.
            logits_to_keep: places whose logits are wanted, without `use_cache`; all by default.
        """
        import torch

        if use_cache:
            cache = past_key_values or _Cache(self)
            rows = cache.context.read(input_ids[0].tolist(), every=False)
            return SimpleNamespace(logits=rows[None], past_key_values=cache)
        context = self._take()
        found = []
        for ids in input_ids.tolist():
            context.clear()
            logits = context.read(ids, every=True)
            found.append(logits if logits_to_keep is None else logits[logits_to_keep])
        self.give_back(context)
        return SimpleNamespace(logits=torch.stack(found), past_key_values=None)

    def _take(self) -> _Context:
        if self._idle:
            return self._idle.pop()
        self._all.append(_Context(self._held, self._positions, self._rows))
        return self._all[-1]

    def give_back(self, context: _Context) -> None:
        """Keep a context for the next sequence."""
        context.clear()
        self._idle.append(context)


class _Cache:
    """The keys and values of a sequence, given back when nobody holds it any more."""

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        self.context = model._take()

    def __del__(self) -> None:
        self._model.give_back(self.context)


class _Context:
    """A context of llama.cpp with one sequence."""

    # Ids that are read at once: memory for their logits is what bounds it.
    _BATCH = 256

    def __init__(self, held: _Held, positions: int, rows: int) -> None:
        import torch

        api = held.api
        parameters = api.llama_context_default_params()
        parameters.n_ctx = positions
        parameters.n_batch = parameters.n_ubatch = min(self._BATCH, positions)
        # torch's number: llama.cpp's threads wait busily, and more of them than idle cores are far slower.
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        parameters.no_perf = True
        self._held, self._rows, self._size = held, rows, min(self._BATCH, positions)
        self._context = api.llama_init_from_model(held.model, parameters)
        if not self._context:
            raise InputError(f"llama.cpp has no room for {positions} positions; free some memory")
        self._batch = api.llama_batch_init(self._size, 0, 1)
        self._at = 0

    def clear(self) -> None:
        """Forget what was read."""
        if not self._context:  # freed, with the model
            return
        api = self._held.api
        api.llama_memory_clear(api.llama_get_memory(self._context), False)
        self._at = 0

    def read(self, ids: list[int], *, every: bool) -> torch.Tensor:
        """Logits [1 or length, rows] after further ids: after the last, or after `every` one."""
        import numpy as np
        import torch

        api, found = self._held.api, []
        for begin in range(0, len(ids), self._size):
            part = ids[begin : begin + self._size]
            last = begin + len(part) == len(ids)
            for i, id in enumerate(part):
                self._batch.token[i] = id
                self._batch.pos[i] = self._at + i
                self._batch.n_seq_id[i] = 1
                self._batch.seq_id[i][0] = 0
                self._batch.logits[i] = every or (last and i == len(part) - 1)
            self._batch.n_tokens = len(part)
            code = api.llama_decode(self._context, self._batch)
            if code != 0:
                raise InputError(f"llama.cpp stopped at position {self._at} with code {code}")
            self._at += len(part)
            wanted = range(len(part)) if every else [len(part) - 1] if last else []
            for i in wanted:
                row = api.llama_get_logits_ith(self._context, i)
                found.append(np.ctypeslib.as_array(row, shape=(self._rows,)).copy())
        return torch.from_numpy(np.stack(found))

    def __del__(self) -> None:
        if getattr(self, "_batch", None) is not None:
            self._held.api.llama_batch_free(self._batch)
            self._batch = None
        if getattr(self, "_context", None):
            self._held.api.llama_free(self._context)
            self._context = None
