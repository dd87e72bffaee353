"""Read an encoded corpus: Megatron `IndexedDataset` shards and their manifest, memory-mapped.

Megatron's own reader does not check the size of a `.bin`: a truncated file opens and fails hours later. This
one checks every length before the first token is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhuzi._show import Report, count
from zhuzi.errors import InputError
from zhuzi.record.remembered import remembered

MANIFEST = "manifest.json"

_MAGIC = b"MMIDIDX\0\0"
_HEADER = 34
_DTYPES: dict[int, np.dtype[Any]] = {
    4: np.dtype("<i4"),
    8: np.dtype("<u2"),
}  # the codes that the encoder writes, and below their names in a manifest
_NAMES: dict[str, np.dtype[Any]] = {"int32": np.dtype("<i4"), "uint16": np.dtype("<u2")}


class Shard:
    """One `.bin` / `.idx` pair. `ends[i]` is the token at which document i ends."""

    def __init__(self, prefix: Path) -> None:
        index, data = prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")
        self.dtype, self.ends = _read_index(index)
        self.tokens = int(self.ends[-1]) if len(self.ends) else 0
        size, want = _size(data), self.tokens * self.dtype.itemsize
        if size != want:
            raise InputError(
                f"{data}: holds {size} bytes where its index promises {want}; encode the corpus again"
            )
        self.data: NDArray[Any] = np.memmap(data, self.dtype, mode="r") if size else np.empty(0, self.dtype)

    def __len__(self) -> int:
        return len(self.ends)

    def __repr__(self) -> str:
        return f"Shard({count(len(self), 'document')}, {count(self.tokens, 'token')} of {self.dtype})"

    def __getitem__(self, i: int) -> NDArray[Any]:
        begin = int(self.ends[i - 1]) if i else 0
        return self.data[begin : int(self.ends[i])]


class Corpus(Report):
    """An encoded corpus: documents in order over all shards, and their tokens as one flat sequence.

    `corpus[i]` is document i as an array of ids, `len(corpus)` the number of documents, `corpus.tokens` that
    of tokens, `corpus.slice(a, b)` the tokens a..b of all documents laid end to end. Tokens are read when
    they are used.

    Raises:
        InputError: no manifest, or a shard that is missing, truncated, or not as index and manifest say.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path / MANIFEST)
        try:
            self.tokenizer_fingerprint = str(manifest["tokenizer"]["fingerprint"])
            self.vocab_size = int(manifest["tokenizer"]["vocab_size"])
            dtype, shards = _NAMES[manifest["dtype"]], list(manifest["shards"])
            names = [str(entry["name"]) for entry in shards]
            promised = [(int(entry["documents"]), int(entry["tokens"])) for entry in shards]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path / MANIFEST}: not the manifest of an encoded corpus ({error!r})"
            ) from error
        self.shards: list[Shard] = []
        for name, (documents, tokens) in zip(names, promised, strict=True):
            if Path(name).name != name:
                raise InputError(f"{self.path / MANIFEST}: names a shard {name!r}; want plain file names")
            shard = Shard(self.path / name)
            if (shard.dtype, len(shard), shard.tokens) != (dtype, documents, tokens):
                raise InputError(
                    f"{self.path / name}.idx: holds {len(shard)} documents, {shard.tokens} tokens of "
                    f"{shard.dtype}, the manifest says {documents}, {tokens}, {dtype}; encode it again"
                )
            self.shards.append(shard)
        self._documents = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self._tokens = np.cumsum([0, *(shard.tokens for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._documents[-1])

    def _headline(self) -> str:
        return f"{self.path}: {count(len(self), 'document')}, {count(self.tokens, 'token')}"

    def _rows(self) -> list[tuple[str, object]]:
        return [
            ("folder", self.path),
            ("documents", len(self)),
            ("tokens", self.tokens),
            ("shards", len(self.shards)),
            ("type of the ids", self.shards[0].dtype.name if self.shards else None),
            ("vocabulary", self.vocab_size),
            ("tokenizer", self.tokenizer_fingerprint),
        ]

    def __getitem__(self, i: int) -> NDArray[Any]:
        if not 0 <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        s = int(np.searchsorted(self._documents, i, side="right")) - 1
        return self.shards[s][i - int(self._documents[s])]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))

    @property
    def tokens(self) -> int:
        """Tokens of all documents together."""
        return int(self._tokens[-1])

    def slice(self, begin: int, end: int) -> NDArray[Any]:
        """The tokens begin..end of all documents laid end to end; a view if they are in one shard."""
        if not 0 <= begin <= end <= self.tokens:
            raise IndexError(f"tokens {begin}..{end} of {self.tokens}")
        parts = []
        s = int(np.searchsorted(self._tokens, begin, side="right")) - 1
        while begin < end:
            start, stop = int(self._tokens[s]), int(self._tokens[s + 1])
            parts.append(self.shards[s].data[begin - start : min(end, stop) - start])
            begin, s = min(end, stop), s + 1
        if not parts:
            return np.empty(0, np.int32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def starts(self, begin: int, end: int) -> NDArray[np.int64]:
        """Where documents start after token `begin` and before `end`, counted from `begin`."""
        found = [
            shard.ends[
                np.searchsorted(shard.ends, begin - at, "right") : np.searchsorted(shard.ends, end - at)
            ]
            + (at - begin)
            for shard, at in zip(self.shards, self._tokens.tolist(), strict=False)
            if at < end and begin < at + shard.tokens
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def manifest(self) -> dict[str, Any]:
        """The manifest, read again at each call: a large corpus has hundreds of megabytes of it."""
        return _read_manifest(self.path / MANIFEST)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the manifest and the indexes: the content of the corpus and its division."""
        files = [self.path / MANIFEST, *sorted(self.path.glob("*.idx"))]

        def compute() -> str:
            whole = hashlib.sha256(files[0].read_bytes())
            for index in files[1:]:
                with index.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            return whole.hexdigest()

        return remembered(files, compute, kind="corpus")


def _read_index(path: Path) -> tuple[np.dtype[Any], NDArray[np.int64]]:
    """Type of the tokens, and the token at which each document ends; every field of the index is checked."""
    size = _size(path)
    with path.open("rb") as file:
        raw = file.read() if size < _HEADER else np.memmap(path, np.uint8, mode="r")
    header = bytes(raw[:_HEADER])
    if size < _HEADER or header[:9] != _MAGIC or int.from_bytes(header[9:17], "little") != 1:
        raise InputError(f"{path}: no Megatron index of version 1; encode the corpus again")
    if header[17] not in _DTYPES:
        raise InputError(f"{path}: token type {header[17]}; want 8 (uint16) or 4 (int32)")
    dtype = _DTYPES[header[17]]
    sequences, documents = int.from_bytes(header[18:26], "little"), int.from_bytes(header[26:34], "little")
    if size != _HEADER + 12 * sequences + 8 * documents:
        raise InputError(
            f"{path}: {size} bytes do not fit {sequences} sequences; truncated? encode the corpus again"
        )

    # numpy reads the unaligned i64 arrays through these views.
    at = _HEADER
    lengths: NDArray[np.int32] = np.frombuffer(raw, "<i4", sequences, at)
    offsets = np.frombuffer(raw, "<i8", sequences, at := at + 4 * sequences)
    bounds = np.frombuffer(raw, "<i8", documents, at + 8 * sequences)
    ends = np.cumsum(lengths, dtype=np.int64)
    begins = np.concatenate([[0], ends[:-1] * dtype.itemsize])[:sequences]
    if (sequences and lengths.min() <= 0) or not np.array_equal(offsets, begins):
        raise InputError(f"{path}: lengths and offsets do not lie end to end; encode the corpus again")
    if not np.array_equal(bounds, np.arange(sequences + 1)):
        raise InputError(
            f"{path}: want one sequence a document; encode the corpus with `zhuzi corpus encode`"
        )
    return dtype, ends


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.parent.is_file():
        raise InputError(
            f"{path.parent}: a file, no encoded corpus; encode it first, with `zhuzi corpus encode`, and "
            "name the folder that this writes"
        )
    if not path.is_file():
        raise InputError(
            f"{path.parent}: holds no {path.name}; name the folder that `zhuzi corpus encode` wrote"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise InputError(f"{path}: not the manifest of an encoded corpus (format 1)")
    return manifest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing, though the corpus should hold it; encode the corpus again"
        ) from None
