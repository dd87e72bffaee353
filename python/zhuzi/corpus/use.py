"""How well a vocabulary fits a corpus: document by document, and beside the base vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhuzi._show import Report, count
from zhuzi.corpus.dataset import Corpus
from zhuzi.tokenizer import Tokenizer

#: Bytes of text that are encoded again with the base, about; of a larger corpus, evenly spaced documents.
COMPARED_BYTES = 32 << 20
#: Tokens of one document, and of one batch of documents, that are compared.
_BATCH = 1 << 20

#: So many documents with the fewest characters per token are named. Shorter ones are passed over: a line of
#: ten characters is often a number.
WORST = 10
SHORT = 32


@dataclass(frozen=True)
class DocumentFit:
    """The length of a document."""

    number: int
    """From 0, as `corpus show` takes it."""
    tokens: int
    characters: int

    @property
    def characters_a_token(self) -> float:
        """Characters of text for each token."""
        return self.characters / max(self.tokens, 1)


@dataclass(frozen=True)
class SourceFit:
    """Text of one file, encoded with both vocabularies."""

    path: str
    characters: int
    tokens: int
    base_tokens: int


@dataclass(frozen=True, repr=False)
class BaseComparison(Report):
    """The same text encoded with the corpus's vocabulary and with the base's, without BOS and EOS."""

    documents: int
    """How many were compared."""
    characters: int
    tokens: int
    base_tokens: int
    sources: tuple[SourceFit, ...]

    @property
    def saved(self) -> float:
        """The share (0 to 1) of the base's tokens that the vocabulary saves."""
        return 1 - self.tokens / max(self.base_tokens, 1)

    def _headline(self) -> str:
        new, base = (self.characters / max(n, 1) for n in (self.tokens, self.base_tokens))
        return (
            f"{new:.3f} characters per token, {base:.3f} with the base: {100 * self.saved:.1f} % fewer tokens"
            f" ({count(self.documents, 'document')} compared)"
        )


class DocumentCharacters:
    """Counts the characters of each document, and keeps the documents with the fewest per token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        kinds = {"CONTROL": 0, "UNKNOWN": 1}
        lengths = [
            _byte_starts(piece.text) if piece.kind == "BYTE" else kinds.get(piece.kind, len(piece.text))
            for piece in tokenizer.pieces()
        ]
        added = len(tokenizer.added_tokens)
        self._lengths: NDArray[np.int32] = np.array(lengths[: len(lengths) - added] + [0] * added, np.int32)
        first = tokenizer.encode("x")[:1]
        self._dummy = int(bool(first) and tokenizer.id_to_token(first[0]).startswith("▁"))
        self._worst: list[DocumentFit] = []
        self._before = 0
        self._characters: NDArray[np.int64] = np.zeros(0, np.int64)

    def begin(self, documents: int) -> None:
        """A shard with so many documents begins."""
        self._characters = np.zeros(documents, np.int64)

    def count(self, ids: NDArray[Any], start: int, ends: NDArray[np.int64]) -> None:
        """Add the shard's tokens from `start` on to their documents, which end at `ends`."""
        sums = np.concatenate([[0], np.cumsum(self._lengths[ids], dtype=np.int64)])
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, start + len(ids) - 1, side="right"))
        touched = ends[first : last + 1]
        begins = np.concatenate([[0], touched[:-1] - start])
        self._characters[first : last + 1] += sums[np.minimum(touched - start, len(ids))] - sums[begins]

    def end(self, ends: NDArray[np.int64]) -> None:
        """The shard is complete."""
        tokens = np.diff(ends, prepend=0)
        characters = np.maximum(self._characters - self._dummy, 0)
        long = np.flatnonzero(tokens >= SHORT)
        ratios = characters[long] / tokens[long]
        for i in long[np.argsort(ratios, kind="stable")[:WORST]].tolist():
            self._worst.append(DocumentFit(self._before + i, int(tokens[i]), int(characters[i])))
        self._worst = sorted(self._worst, key=lambda d: (d.characters_a_token, d.number))[:WORST]
        self._before += len(ends)

    def worst(self) -> tuple[DocumentFit, ...]:
        """The documents with the fewest characters per token, the worst first."""
        return tuple(self._worst)


def _byte_starts(piece: str) -> int:
    """1 for a byte that starts a character, 0 for one that continues it."""
    return int(int(piece[3:5], 16) & 0xC0 != 0x80)


def cumulative_use(counts: NDArray[np.int64]) -> tuple[tuple[int, float], ...]:
    """(n, share of all uses that the n most frequent pieces have), for some n from 1 to all that occur."""
    used = np.sort(counts[counts > 0])[::-1]
    if not len(used):
        return ()
    shares = np.cumsum(used) / used.sum()
    ranks = np.unique(np.geomspace(1, len(used), 60).round().astype(np.int64))
    return tuple((int(n), float(shares[n - 1])) for n in ranks)


def compare_with_base(
    corpus: Corpus, manifest: dict[str, Any], tokenizer: Tokenizer, base: Tokenizer, threads: int
) -> BaseComparison:
    """Encode the corpus's text, or a sample of `COMPARED_BYTES`, once more with the base vocabulary."""
    step = max(-(-int(manifest["text_bytes"]) // COMPARED_BYTES), 1)
    special = [id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None]
    parts = [part for shard in manifest["shards"] for part in shard["inputs"]]
    part_ends = np.cumsum([part["documents"] for part in parts])
    sums: dict[int, list[int]] = {}
    documents = 0
    for numbers, batch in _batches(corpus, step):
        texts = tokenizer.decode_batch(batch)
        ends = base.encode_batch(texts, threads).offsets
        for number, ids, text, tokens in zip(numbers, batch, texts, np.diff(ends).tolist(), strict=True):
            source = parts[int(np.searchsorted(part_ends, number, side="right"))]["source"]
            entry = sums.setdefault(source, [0, 0, 0])
            own = len(ids) - sum(ids.count(id) for id in special)
            for slot, value in enumerate((len(text), own, tokens)):
                entry[slot] += value
        documents += len(numbers)
    sources = tuple(
        SourceFit(str(manifest["sources"][number]["path"]), *sums[number]) for number in sorted(sums)
    )
    characters, tokens, base_tokens = (sum(entry[slot] for entry in sums.values()) for slot in range(3))
    return BaseComparison(documents, characters, tokens, base_tokens, sources)


def _batches(corpus: Corpus, step: int) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Every `step`-th document, a batch at a time: their numbers and ids."""
    numbers: list[int] = []
    batch: list[list[int]] = []
    room = _BATCH
    for number in range(0, len(corpus), step):
        ids = corpus[number][:_BATCH].tolist()
        numbers.append(number)
        batch.append(ids)
        room -= len(ids)
        if room <= 0:
            yield numbers, batch
            numbers, batch, room = [], [], _BATCH
    if numbers:
        yield numbers, batch
