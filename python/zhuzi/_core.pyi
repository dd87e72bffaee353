from array import array
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Self, TypedDict, final

from zhuzi.corpus.options import CorpusOptions
from zhuzi.vocab.merge_options import MergeOptions

__all__ = [
    "CACHE_BYTES",
    "MAX_CACHE_BYTES",
    "Buffer",
    "CorpusLock",
    "InputError",
    "InputReader",
    "ModelFileError",
    "OutputExistsError",
    "RunCounter",
    "Tokenizer",
    "ZhuziError",
    "__version__",
    "check_options",
    "common_han",
    "corpus_progress",
    "count_occurrences",
    "counting_model",
    "dead_pieces",
    "encode_corpus",
    "encode_tasks",
    "estimate_corpus",
    "is_cjk_punctuation",
    "is_han",
    "locate_document",
    "merge_shards",
    "merge_vocab",
    "model_settings",
    "verify_corpus",
]

__version__: str
CACHE_BYTES: int
MAX_CACHE_BYTES: int

class ZhuziError(Exception): ...
class ModelFileError(ZhuziError): ...
class InputError(ZhuziError): ...
class OutputExistsError(ZhuziError): ...

@final
class Buffer:
    """Integers read in place through the buffer protocol, as `numpy.frombuffer` does."""

    def __len__(self) -> int: ...

@final
class Tokenizer:
    def __new__(cls, model: bytes, added: Sequence[str], origin: str, cache_bytes: int) -> Tokenizer: ...
    def encode(self, text: str | bytes, threads: int = 1) -> list[int]: ...
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...
    def encode_piece(self, piece: str) -> list[int]: ...
    def encode_batch(self, texts: object, threads: int) -> tuple[Buffer, Buffer]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]: ...
    def pieces(self) -> list[tuple[str, float, str]]: ...
    def token_to_id(self, token: str) -> int | None: ...
    def id_to_token(self, id: int) -> str | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def special_ids(self) -> tuple[int, int | None, int | None, int | None]: ...

@final
class InputReader:
    """Texts or records of input files, a block at a time."""

    def __new__(
        cls, inputs: Sequence[str | PathLike[str]], options: CorpusOptions, skip_bad: bool, whole: bool
    ) -> InputReader: ...
    def next_texts(self) -> list[str] | None: ...
    def next_records(self) -> tuple[Path, str, list[tuple[str, int]]] | None: ...
    def files(self) -> list[tuple[Path, int, str]]: ...
    def counts(self) -> _ReadCounts: ...
    def left_out(self) -> _LeftOut: ...
    def unreadable(self) -> list[tuple[Path, str]]: ...

@final
class CorpusLock:
    """Keeps runs out of a corpus folder while other processes do its tasks."""

    def __new__(cls, out: str | PathLike[str]) -> CorpusLock: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, _kind: object, _error: object, _trace: object) -> None: ...

@final
class RunCounter:
    """Counts the runs of text that new pieces may be made of, and learns pieces from them."""

    def __new__(cls, base: bytes, origin: str, scripts: str) -> RunCounter: ...
    def add(
        self,
        text: bytes | bytearray | memoryview,
        sizes: array[int],
        threads: int,
        progress: Callable[[int], object] | None,
    ) -> None: ...
    def add_word(self, word: str, count: int) -> None: ...
    def extend(
        self,
        *,
        scripts: str,
        new_pieces: int,
        characters: str,
        max_length: int,
        min_count: int,
        protected: Sequence[str],
        forbidden: Sequence[str],
        beside: Sequence[str],
        threads: int,
        progress: Callable[[int], object] | None,
    ) -> tuple[bytes, Literal["above", "below"], int, int, int]: ...

class _ReadCounts(TypedDict):
    bytes: int
    documents: int
    characters: int
    empty_documents: int
    bad_records: int

class _LeftOut(TypedDict):
    other_kinds: dict[str, int]
    hidden: int
    repeated: int
    records_of_tools: int

class _Counts(TypedDict):
    documents: int
    tokens: int
    characters: int
    text_bytes: int
    input_bytes: int
    empty_documents: int
    short_documents: int
    long_documents: int
    foreign_documents: int
    unsampled_documents: int
    duplicate_documents: int
    bad_records: int

class _EncodeReport(TypedDict):
    outcome: Literal["finished", "already", "unsealed"]
    counts: _Counts
    shards: int
    tasks: int
    resumed: int
    missing: list[int]
    read_bytes: int
    encoded_bytes: int
    files: int
    left_out: _LeftOut

class _Figures(TypedDict):
    bytes: int
    tasks: int
    unpacked_bytes: int
    shards: int
    documents: int
    tokens: int
    disk_bytes: int
    sampled_bytes: int

class _Estimate(TypedDict):
    files: list[tuple[str, int]]
    figures: _Figures
    unreadable: int
    left_out: _LeftOut
    refused: OutputExistsError | None

class _ModelSettings(TypedDict):
    kind: Literal["unigram", "bpe", "word", "char"]
    byte_fallback: bool
    has_charsmap: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool
    unk_surface: str

class _FolderProgress(TypedDict):
    tasks: int
    committed: int
    total_bytes: int
    bytes: int
    documents: int
    tokens: int

class _Merged(TypedDict):
    model: bytes
    new: list[tuple[str, str, int | None, int | None]]
    left_out: list[tuple[str, str, int, str, str]]
    overruled: list[str]
    dead: list[int]
    killed: list[int]

def check_options(options: CorpusOptions) -> None: ...
def corpus_progress(out: str | PathLike[str]) -> _FolderProgress: ...
def merge_vocab(
    base: tuple[bytes, str],
    donors: Sequence[tuple[bytes, str]],
    kept: Sequence[str],
    other: Sequence[str],
    options: MergeOptions,
    counts: Sequence[int] | None,
) -> _Merged: ...
def counting_model(
    base: tuple[bytes, str],
    donors: Sequence[tuple[bytes, str]],
    tokens: Sequence[str],
    options: MergeOptions,
) -> bytes: ...
def dead_pieces(model: bytes, origin: str) -> list[tuple[int, list[int]]]: ...
def model_settings(model: bytes, origin: str) -> _ModelSettings: ...
def common_han() -> str: ...
def is_han(character: str) -> bool: ...
def is_cjk_punctuation(character: str) -> bool: ...
def encode_corpus(
    inputs: Sequence[str | PathLike[str]],
    tokenizer: Tokenizer,
    fingerprint: str,
    out: str | PathLike[str],
    options: CorpusOptions,
    *,
    threads: int,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
    part: tuple[int, int] | None,
    plan_only: bool,
    progress: Callable[[int, int, int, int], object] | None,
) -> _EncodeReport: ...
def encode_tasks(
    out: str | PathLike[str],
    tokenizer: Tokenizer,
    fingerprint: str,
    tasks: Sequence[int],
    *,
    threads: int,
    skip_bad: bool,
) -> tuple[int, int, int]: ...
def estimate_corpus(
    inputs: Sequence[str | PathLike[str]],
    tokenizer: Tokenizer,
    fingerprint: str,
    out: str | PathLike[str],
    options: CorpusOptions,
    *,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
) -> _Estimate: ...
def locate_document(
    out: str | PathLike[str], number: int, progress: Callable[[int], object] | None
) -> tuple[Path, int, int | None]: ...
def merge_shards(
    folder: str | PathLike[str],
    prefix: str | PathLike[str],
    progress: Callable[[int], object] | None,
) -> tuple[int, int]: ...
def count_occurrences(
    folder: str | PathLike[str],
    tokenizer: Tokenizer,
    ids: Sequence[int],
    threads: int,
    progress: Callable[[int], object] | None,
) -> list[int]: ...
def verify_corpus(out: str | PathLike[str], progress: Callable[[int], object] | None) -> list[str]: ...
