"""The ids of the same texts by each engine: ours, sentencepiece, tokenizers (transformers), llama.cpp.

sentencepiece defines the ids. The other engines read a vocabulary in forms of their own: `tokenizers` the
tokenizer.json that `zhuzi vocab export` writes, loaded by transformers; llama.cpp a GGUF file. `compare`
counts the documents to which an engine gives other ids than ours, and shows the first such place.

Special tokens written in a text are text, or (`parse_special`) are recognised, as for a rendered chat: then
the text between two of them is encoded alone, with a `▁` of its own.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zhuzi._show import Report
from zhuzi.record.json_file import write_json
from zhuzi.record.place import PathLike
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.files import FAST_FILE
from zhuzi.vocab.fast_file import fast_file, why_inexact
from zhuzi.vocab.gguf_file import why_not_gguf, write_gguf

#: The engines in the order in which they are reported.
ENGINES = ("zhuzi", "sentencepiece", "tokenizers", "llama.cpp")

#: Our encoder as a tokenizer of transformers: compared when it is asked for.
ZHUZI_TOKENIZER = "ZhuziTokenizer"

#: Bytes of text that are encoded at a time.
_BATCH_BYTES = 1 << 20

#: Pieces that a difference shows: so many before the place, and so many in all.
_BEFORE, _SHOWN = 2, 8

_Encode = Callable[[list[str]], list[list[int]]]


@dataclass(frozen=True)
class Engine:
    """One engine, ready to encode with one vocabulary, or the reason why it cannot."""

    name: str
    version: str | None
    """Version of the library; None if it is not installed."""
    absent: str | None
    """Why the engine gives no ids ("not installed: pip install ..."); None if it does."""
    note: str | None
    """Why it cannot give sentencepiece's ids for every text; None where that is not known."""
    encode: _Encode | None
    """Ids of a list of texts, without BOS. None if `absent`."""


@dataclass(frozen=True)
class Difference:
    """The first place where an engine's ids differ from ours."""

    document: int
    """Number of the document among the texts, from 0."""
    token: int
    """Number of the first token that differs, from 0."""
    character: int
    """Where that token of ours begins in the document, in characters."""
    context: str
    """The text around."""
    ours: tuple[str, ...]
    """Our pieces from two before that token on."""
    theirs: tuple[str, ...]
    """The engine's pieces from the same token on."""


@dataclass(frozen=True)
class EngineParity:
    """How many documents an engine encodes otherwise than we do."""

    engine: str
    version: str | None
    absent: str | None
    note: str | None
    documents: int
    """Documents compared; 0 for an engine that is absent."""
    differing: int
    first: Difference | None

    @property
    def exact(self) -> bool:
        """Whether the engine was compared, and gave the same ids for every document."""
        return self.absent is None and not self.differing


@dataclass(frozen=True, repr=False)
class Parity(Report):
    """Whether all engines give the same ids."""

    documents: int
    text_bytes: int
    engines: tuple[EngineParity, ...]
    """sentencepiece, tokenizers and llama.cpp, each compared with ours."""

    @property
    def exact(self) -> bool:
        """Whether every engine that is installed gave the same ids for every document; see `absent`."""
        return not any(engine.differing for engine in self.engines)

    @property
    def absent(self) -> dict[str, str]:
        """The engines that were not compared, and why: nothing is known about them."""
        return {engine.engine: engine.absent for engine in self.engines if engine.absent is not None}

    def _headline(self) -> str:
        return f"{self.documents:,} documents: " + ", ".join(
            f"{e.engine} {e.absent or f'{e.differing:,} differ'}" for e in self.engines
        )


def load(path: PathLike) -> Tokenizer:
    """The tokenizer of a folder, or of a SentencePiece model file."""
    path = Path(path)
    return Tokenizer.from_dir(path) if path.is_dir() else Tokenizer.from_sentencepiece(path)


def open_engines(
    tokenizer: Tokenizer, names: Sequence[str] = ENGINES, *, parse_special: bool = False
) -> list[Engine]:
    """The engines of these names with the vocabulary of `tokenizer`, absent ones with the reason.

    With `parse_special` they recognise special tokens in a text. Raises `ValueError` for a name that is
    neither in `ENGINES` nor `ZHUZI_TOKENIZER`.
    """
    unknown = [name for name in names if name not in _OPEN]
    if unknown:
        raise ValueError(f"no engine is called {unknown[0]!r}; there are {', '.join(_OPEN)}")
    return [_OPEN[name](tokenizer, parse_special) for name in names]


def compare(
    tokenizer: Tokenizer | PathLike,
    texts: Iterable[str],
    *,
    engines: Sequence[str] = ENGINES[1:],
    parse_special: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Parity:
    """Encode `texts` with each engine and compare the ids with ours, a megabyte at a time.

    `tokenizer` is a `Tokenizer`, its folder, or a SentencePiece model file. Ids are compared without BOS.
    Special tokens written in a text are text for every engine; with `parse_special` every engine recognises
    them, except sentencepiece, which cannot. `progress` is given the bytes of each batch.

    Raises what `Tokenizer.from_dir` and `open_engines` raise.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load(tokenizer)
    opened = open_engines(tokenizer, engines, parse_special=parse_special)
    encode_ours = _ours(tokenizer, parse_special).encode
    assert encode_ours is not None
    differing = dict.fromkeys(engines, 0)
    first: dict[str, Difference] = {}
    documents = size = 0
    for batch, batch_bytes in _batches(texts):
        ours = encode_ours(batch)
        for engine in opened:
            if engine.encode is None:
                continue
            theirs = engine.encode(batch)
            for at, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
                if mine != other:
                    differing[engine.name] += 1
                    if engine.name not in first:
                        first[engine.name] = _difference(
                            tokenizer, documents + at, batch[at], mine, other, parse_special
                        )
        documents += len(batch)
        size += batch_bytes
        if progress is not None:
            progress(batch_bytes)
    return Parity(
        documents=documents,
        text_bytes=size,
        engines=tuple(
            EngineParity(
                engine=engine.name,
                version=engine.version,
                absent=engine.absent,
                note=engine.note,
                documents=0 if engine.absent else documents,
                differing=differing[engine.name],
                first=first.get(engine.name),
            )
            for engine in opened
        ),
    )


def _batches(texts: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= _BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def _difference(
    tokenizer: Tokenizer, document: int, text: str, ours: list[int], theirs: list[int], parse_special: bool
) -> Difference:
    at = next(i for i, (mine, other) in enumerate(zip_longest(ours, theirs)) if mine != other)
    starts = _starts(tokenizer, text, parse_special)
    character = starts[at] if at < len(starts) else len(text)
    start = max(at - _BEFORE, 0)

    def pieces(ids: list[int]) -> tuple[str, ...]:
        shown = ids[start : start + _SHOWN]
        return tuple(tokenizer.id_to_token(id) if id < tokenizer.vocab_size else f"<{id}>" for id in shown)

    context = text[max(character - 10, 0) : character + 20]
    return Difference(document, at, character, context, pieces(ours), pieces(theirs))


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that engines recognise in a text when they are asked to, with their ids."""
    first = tokenizer.vocab_size - len(tokenizer.added_tokens)
    kinds = ("CONTROL", "UNKNOWN")
    return {
        piece.text: id for id, piece in enumerate(tokenizer.pieces()) if id >= first or piece.kind in kinds
    }


def _parts(text: str, special: dict[str, int]) -> list[str]:
    """A text and the special tokens in it, in turn: the text at even places, perhaps empty."""
    longest_first = sorted(special, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]


def _starts(tokenizer: Tokenizer, text: str, parse_special: bool) -> list[int]:
    """Where each token of ours begins, in characters."""
    if not parse_special:
        return [begin for begin, _ in tokenizer.encode_with_offsets(text).offsets]
    starts, at = [], 0
    for i, part in enumerate(_parts(text, special_tokens(tokenizer))):
        starts += [at] if i % 2 else [at + begin for begin, _ in tokenizer.encode_with_offsets(part).offsets]
        at += len(part)
    return starts


def _ours(tokenizer: Tokenizer, parse_special: bool) -> Engine:
    special = special_tokens(tokenizer) if parse_special else {}

    def encode(texts: list[str]) -> list[list[int]]:
        if not parse_special:
            return tokenizer.encode_batch(texts).tolist()
        split = [_parts(text, special) for text in texts]
        between = iter(tokenizer.encode_batch([part for parts in split for part in parts[::2]]).tolist())
        return [
            [id for i, part in enumerate(parts) for id in ([special[part]] if i % 2 else next(between))]
            for parts in split
        ]

    return Engine("zhuzi", version("zhuzi"), None, None, encode)


def _sentencepiece(tokenizer: Tokenizer, parse_special: bool) -> Engine:
    import sentencepiece

    if parse_special:
        absent = "special tokens in a text are text for it"
        return Engine("sentencepiece", version("sentencepiece"), absent, None, None)
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)

    def encode(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = model.encode(texts)
        return found

    return Engine("sentencepiece", version("sentencepiece"), None, None, encode)


def _tokenizers(tokenizer: Tokenizer, parse_special: bool) -> Engine:
    name = "tokenizers"
    found = installed(name)
    if found is None or (transformers := installed("transformers")) is None:
        return _not_installed(name, 'pip install "zhuzi[train]"')
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FAST_FILE)
        write_json(path, fast_file(tokenizer))
        loaded = PreTrainedTokenizerFast(tokenizer_file=str(path), split_special_tokens=not parse_special)
    return Engine(
        name, f"{found} (transformers {transformers})", None, why_inexact(tokenizer), _called(loaded)
    )


def _zhuzi_tokenizer(tokenizer: Tokenizer, parse_special: bool) -> Engine:
    name = ZHUZI_TOKENIZER
    if (transformers := installed("transformers")) is None:
        return _not_installed(name, 'pip install "zhuzi[train]"')
    from zhuzi.hf import ZhuziTokenizer

    loaded = ZhuziTokenizer(tokenizer, split_special_tokens=not parse_special)
    return Engine(name, f"{version('zhuzi')} (transformers {transformers})", None, None, _called(loaded))


def _called(loaded: Any) -> _Encode:
    """Ids by a tokenizer of transformers."""

    def encode(texts: list[str]) -> list[list[int]]:
        found = loaded(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = found["input_ids"]
        return ids

    return encode


def _llama_cpp(tokenizer: Tokenizer, parse_special: bool) -> Engine:
    name = "llama.cpp"
    found = installed("llama-cpp-python")
    if found is None or installed("gguf") is None:
        return _not_installed(name, 'pip install "zhuzi[gguf]"')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.gguf")
        write_gguf(tokenizer, path)
        vocabulary = GgufVocabulary(path)
    encode = partial(vocabulary.encode, special=parse_special)
    return Engine(name, f"llama-cpp-python {found}", None, why_not_gguf(tokenizer), encode)


class GgufVocabulary:
    """A GGUF vocabulary in llama.cpp, freed with the object."""

    def __init__(self, path: Path) -> None:
        import llama_cpp
        from llama_cpp._logger import set_verbose

        set_verbose(False)
        self._api: Any = llama_cpp
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load this vocabulary")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, texts: list[str], *, special: bool = False) -> list[list[int]]:
        """Ids of texts without BOS; special tokens in a text are text, unless `special`."""
        return [self._encode(text.encode(), special) for text in texts]

    def _encode(self, text: bytes, special: bool) -> list[int]:
        # No more tokens than bytes, and the `▁` in front (and after each special token).
        buffer = (self._api.llama_token * (2 * len(text) + 2))()
        n = self._api.llama_tokenize(self._vocab, text, len(text), buffer, len(buffer), False, special)
        if n < 0:
            raise RuntimeError(f"llama.cpp gives {-n} tokens for {len(text)} bytes")
        return list(buffer[:n])

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._api.llama_model_free(self._model)
            self._model = None


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _not_installed(name: str, command: str) -> Engine:
    return Engine(name, None, f"not installed: {command}", None, None)


_OPEN: dict[str, Callable[[Tokenizer, bool], Engine]] = {
    "zhuzi": _ours,
    "sentencepiece": _sentencepiece,
    "tokenizers": _tokenizers,
    "llama.cpp": _llama_cpp,
    ZHUZI_TOKENIZER: _zhuzi_tokenizer,
}
