"""`Tokenizer`: SentencePiece BPE with exactly the ids of `sentencepiece`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from zhuzi import _core
from zhuzi._process import available_cores
from zhuzi.record.json_file import write_json
from zhuzi.tokenizer.added_tokens import read_added_tokens
from zhuzi.tokenizer.batch import EncodedBatch
from zhuzi.tokenizer.files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    FAST_FILE,
    GUARD_FILE,
    MODEL_FILE,
    find_model,
    read_model,
)
from zhuzi.tokenizer.ids import many_sequences, one_sequence, why_refused

#: Default size of each thread's cache of segments, in bytes. A larger one gains little on real text.
CACHE_BYTES = _core.CACHE_BYTES


class ArrowArray(Protocol):
    """Anything with Arrow's C stream interface, such as chunked arrays of pyarrow and series of polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class Piece(NamedTuple):
    """One entry of a vocabulary."""

    text: str
    score: float
    kind: str
    """NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE, as SentencePiece calls them."""


class Encoding(NamedTuple):
    """Ids of one text with their offsets."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """For each id: where it begins and ends in the text, in code points (the end is exclusive)."""


class Tokenizer:
    """An exact SentencePiece BPE tokenizer, with tokens added to those of its model (`[PAD]`).

    The ids of added tokens follow the model's; text never becomes one. Begin- and end-of-sequence ids are
    added only if asked for. Instances may be shared between threads.

    Each thread that encodes caches the ids of segments of text in `cache_bytes`, rounded down to a power of
    two. The cache never grows and affects nothing but the speed. A thread needs about 1 MB besides.
    """

    def __init__(
        self,
        model: bytes,
        *,
        added_tokens: Sequence[str] = (),
        origin: str = "model",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not 0 <= cache_bytes <= _core.MAX_CACHE_BYTES:
            raise ValueError(f"cache_bytes is {cache_bytes}; give 0 to {_core.MAX_CACHE_BYTES} (1 GiB)")
        self._model = model
        self._added = tuple(added_tokens)
        self._cache_bytes = cache_bytes
        self.compiled = _core.Tokenizer(model, self._added, origin, cache_bytes)
        """The compiled tokenizer, as the functions of `zhuzi._core` take it."""
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = self.compiled.special_ids

    @classmethod
    def from_sentencepiece(
        cls, model: str | os.PathLike[str] | bytes, *, cache_bytes: int = CACHE_BYTES
    ) -> Tokenizer:
        """Load a SentencePiece model from its path, or from its bytes.

        Raises `OSError` if it cannot be read and `ModelFileError` if it is damaged, not a SentencePiece
        model, or not BPE.
        """
        if isinstance(model, bytes):
            return cls(model, cache_bytes=cache_bytes)
        return cls(read_model(model), origin=os.fspath(model), cache_bytes=cache_bytes)

    @classmethod
    def from_dir(cls, folder: str | os.PathLike[str], *, cache_bytes: int = CACHE_BYTES) -> Tokenizer:
        """Load `tokenizer.model` and the added tokens from a tokenizer or model folder.

        Added tokens are those to which `added_tokens.json`, `tokenizer_config.json` (`added_tokens_decoder`)
        or `tokenizer.json` gives an id after the model's.

        Raises `ModelFileError` if there is no such model, or the files disagree about an id.
        """
        folder = Path(folder)
        path = find_model(folder)
        tokenizer = cls(read_model(path), origin=str(path), cache_bytes=cache_bytes)
        added = read_added_tokens(folder, tokenizer.vocab_size, tokenizer.id_to_token)
        if not added:
            return tokenizer
        return cls(tokenizer._model, added_tokens=added, origin=str(path), cache_bytes=cache_bytes)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files into `folder`, replacing those of another tokenizer.

        Plain transformers loads the folder with its SentencePiece backend, which `tokenizer_config.json`
        names and which gives these ids after a BOS. The default `LlamaTokenizer` of transformers 5 would
        break ties between scores differently; a `tokenizer.json` that says so makes it fail.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self._model)
        first = self.vocab_size - len(self._added)
        added = {token: first + i for i, token in enumerate(self._added)}
        if added:
            write_json(folder / ADDED_TOKENS_FILE, added)
        else:
            (folder / ADDED_TOKENS_FILE).unlink(missing_ok=True)
        write_json(folder / CONFIG_FILE, self._config(added))
        write_json(folder / FAST_FILE, GUARD_FILE)

    def _config(self, added: dict[str, int]) -> dict[str, object]:
        # Written out even where they are the library's defaults: a default that changes with a version would
        # change ids silently.
        config: dict[str, object] = {
            "tokenizer_class": "SentencePieceBackend",
            # BOS in front, as in tuning, chat and evaluation and in LLaMA's own tokenizer. The backend obeys
            # only the pattern and ignores `add_bos_token`, which other tools read.
            "add_bos_token": self.bos_id is not None,
            "special_tokens_pattern": "none" if self.bos_id is None else "bos",
            "add_eos_token": False,
            "add_prefix_space": None,
            "clean_up_tokenization_spaces": False,
            # Without legacy there is no dummy prefix, which gives other ids.
            "legacy": True,
            "split_special_tokens": True,
        }
        ids = {"unk": self.unk_id, "bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id}
        tokens = {f"{name}_token": self.id_to_token(id) for name, id in ids.items() if id is not None}
        control = [id for id, piece in enumerate(self.pieces()) if piece.kind == "CONTROL"]  # added ones, too
        special = {id: self.id_to_token(id) for id in [*ids.values(), *control] if id is not None}
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        return {
            **config,
            **tokens,
            "added_tokens_decoder": {
                str(id): {"content": token, **flags} for id, token in sorted(special.items())
            },
        }

    def encode(
        self, text: str | bytes, *, add_bos: bool = False, add_eos: bool = False, num_threads: int = 1
    ) -> list[int]:
        """Ids of one text. In `bytes`, each byte that is not valid UTF-8 counts as U+FFFD.

        A text of megabytes is encoded on `num_threads` threads, with the same ids.
        """
        ids = self.compiled.encode(text, num_threads)
        if add_bos:
            ids.insert(0, self._required("bos", self.bos_id))
        if add_eos:
            ids.append(self._required("eos", self.eos_id))
        return ids

    def encode_with_offsets(self, text: str) -> Encoding:
        """Ids of one text and the span of each token in it, as in SentencePiece's `proto` output.

        An offset is (begin, end) in code points: `text[begin:end]`. The dummy `▁` in front spans nothing. Of
        the byte tokens that spell a character, the last spans it and the others span nothing.
        """
        return Encoding(*self.compiled.encode_with_offsets(text))

    def encode_batch(
        self, docs: Iterable[str | bytes] | ArrowArray, num_threads: int | None = None
    ) -> EncodedBatch:
        """Ids of many texts, encoded on `num_threads` threads (every core by default) without the GIL.

        `docs` is a list (or any iterable) of `str` or `bytes`, or an Arrow array of strings or of
        dictionary-encoded strings (a column of pyarrow, pandas or polars), which is read in place.

        Raises `TypeError`, with the index, for anything that is not text, such as None, NaN and null.
        """
        if isinstance(docs, str | bytes):
            raise TypeError("encode_batch wants a list of texts; for one text there is encode")
        threads = num_threads if num_threads is not None else available_cores()
        if threads < 1:
            raise ValueError(f"num_threads must be at least 1, not {threads}")
        return EncodedBatch(*self.compiled.encode_batch(docs, threads))

    def encode_piece(self, piece: str) -> list[int]:
        """Ids of a piece's own text, taken as normalised: `▁` is a space, and no dummy one is added."""
        return self.compiled.encode_piece(piece)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, as SentencePiece decodes it; control and added tokens are invisible.

        `ids` is a list or anything else of one dimension: an array, a tensor on any device, a column.

        Raises `IndexError` for an id outside the vocabulary (such as the -100 of labels) and `TypeError` for
        anything but a sequence of integers; both say which id.
        """
        plain = one_sequence(ids)
        try:
            return self.compiled.decode(plain)
        except (OverflowError, TypeError, ValueError) as error:
            raise why_refused(plain, self.vocab_size) or error from None

    def decode_batch(self, batch: Iterable[Iterable[int]] | EncodedBatch) -> list[str]:
        """Texts of many sequences of ids: lists of lists, of arrays or of tensors, or a matrix.

        Raises what `decode` raises; the message names the text.
        """
        plain = batch.tolist() if isinstance(batch, EncodedBatch) else many_sequences(batch)
        try:
            return self.compiled.decode_batch(plain)
        except (OverflowError, TypeError, ValueError) as error:
            refusals = (why_refused(ids, self.vocab_size, f"text {at}: ") for at, ids in enumerate(plain))
            raise next(filter(None, refusals), error) from None

    def pieces(self) -> list[Piece]:
        """Every piece in the order of the ids; added tokens come last."""
        return [Piece(*piece) for piece in self.compiled.pieces()]

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.compiled.vocab_size

    def token_to_id(self, token: str) -> int | None:
        """Id of a piece or added token, or `None`."""
        return self.compiled.token_to_id(token)

    def id_to_token(self, id: int) -> str:
        """Piece or added token of an id; `IndexError` outside the vocabulary."""
        token = self.compiled.id_to_token(id) if 0 <= id < self.vocab_size else None
        if token is None:
            raise IndexError(f"id {id} is outside the vocabulary of {self.vocab_size} ids")
        return token

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Tokens added to the model's, in the order of their ids."""
        return self._added

    @property
    def model(self) -> bytes:
        """The SentencePiece model file that the tokenizer was made from, byte for byte."""
        return self._model

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the model file and the added tokens: equal only for equal tokenizers."""
        digest = hashlib.sha256(hashlib.sha256(self._model).digest())
        digest.update(json.dumps(self._added, ensure_ascii=False).encode())
        return digest.hexdigest()

    def _required(self, name: str, id: int | None) -> int:
        if id is None:
            raise ValueError(f"this model has no {name} piece")
        return id

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (self._model, self._added, self._cache_bytes)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, added_tokens={list(self._added)})"


def rebuild(model: bytes, added: Sequence[str], cache_bytes: int) -> Tokenizer:
    """A tokenizer from its pickled parts."""
    return Tokenizer(model, added_tokens=added, cache_bytes=cache_bytes)
