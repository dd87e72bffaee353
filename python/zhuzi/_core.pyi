from collections.abc import Callable, Sequence
from os import PathLike
from typing import final

__all__ = [
    "Buffer",
    "InputError",
    "ModelFileError",
    "Tokenizer",
    "ZhuziError",
    "__version__",
    "encode_corpus",
    "merge_vocab",
]

__version__: str

class ZhuziError(Exception): ...
class ModelFileError(ZhuziError): ...
class InputError(ZhuziError): ...

@final
class Buffer:
    """Integers read in place through the buffer protocol, as `numpy.frombuffer` does."""

    def __len__(self) -> int: ...

@final
class Tokenizer:
    def __new__(cls, model: bytes, added: Sequence[str], origin: str) -> Tokenizer: ...
    def encode(self, text: str | bytes, threads: int = 1) -> list[int]: ...
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

def merge_vocab(
    base: bytes, base_origin: str, donor: bytes, donor_origin: str, policy: str
) -> tuple[bytes, int, int, int]: ...
def encode_corpus(
    inputs: Sequence[str | PathLike[str]],
    tokenizer: Tokenizer,
    fingerprint: str,
    out: str | PathLike[str],
    *,
    field: str,
    eos: bool,
    threads: int,
    shard_bytes: int,
    progress: Callable[[int, int, int, int], object] | None,
) -> None: ...
