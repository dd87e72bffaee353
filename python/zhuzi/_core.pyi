from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import final

__all__ = [
    "CACHE_BYTES",
    "MAX_CACHE_BYTES",
    "Buffer",
    "InputError",
    "InputReader",
    "ModelFileError",
    "OutputExistsError",
    "Tokenizer",
    "ZhuziError",
    "__version__",
    "count_occurrences",
    "encode_corpus",
    "encode_tasks",
    "estimate_corpus",
    "locate_document",
    "merge_shards",
    "merge_vocab",
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
        cls, inputs: Sequence[str | PathLike[str]], options: str, skip_bad: bool, whole: bool
    ) -> InputReader: ...
    def next_texts(self) -> list[str] | None: ...
    def next_records(self) -> tuple[Path, str, list[tuple[str, int]]] | None: ...
    def files(self) -> list[tuple[Path, int, str]]: ...
    def counts(self) -> tuple[int, int, int, int, int]: ...
    def left_out(self) -> str: ...

def merge_vocab(
    base: bytes, base_origin: str, donor: bytes, donor_origin: str, policy: str, beside: Sequence[str]
) -> tuple[bytes, int, int, list[str], list[str], list[str]]: ...
def encode_corpus(
    inputs: Sequence[str | PathLike[str]],
    tokenizer: Tokenizer,
    fingerprint: str,
    out: str | PathLike[str],
    options: str,
    *,
    threads: int,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
    part: tuple[int, int] | None,
    plan_only: bool,
    progress: Callable[[int, int, int, int], object] | None,
) -> str: ...
def encode_tasks(
    out: str | PathLike[str],
    tokenizer: Tokenizer,
    fingerprint: str,
    tasks: Sequence[int],
    *,
    threads: int,
    skip_bad: bool,
) -> None: ...
def estimate_corpus(
    inputs: Sequence[str | PathLike[str]],
    tokenizer: Tokenizer,
    fingerprint: str,
    out: str | PathLike[str],
    options: str,
    *,
    skip_bad: bool,
) -> str: ...
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
