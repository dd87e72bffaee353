"""One pass over a corpus: how vocabularies cut it, and what changes against their base."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import nlargest
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhuzi import _core
from zhuzi.tokenizer import EncodedBatch, Tokenizer
from zhuzi.vocab.audit.checks import Vocab, cover
from zhuzi.vocab.audit.result import Drift, Example, SourceUsage, Usage

#: Bytes of text (about) that are encoded at a time.
BATCH_BYTES = 4 << 20

#: A longer document is cut at a newline before the engines get it: one of them may take quadratic time.
PART_CHARACTERS = 1 << 16

_CODE_POINTS = 0x110000
_FREQUENT, _EXAMPLES = 40, 5
_ALPHA = 2.5


@cache
def han_pattern() -> re.Pattern[str]:
    """Finds a Han character."""
    # Unicode assigns none elsewhere.
    planes = (range(0x2E80, 0xD800), range(0xE000, 0x10000), range(0x16F00, 0x17000), range(0x20000, 0x40000))
    ranges: list[str] = []
    for plane in planes:
        for is_han, run in groupby(plane, lambda code: _core.is_han(chr(code))):
            codes = list(run)
            # Ranges: beyond U+FFFF `re` compares with one entry of a set after the other.
            ranges += [f"{chr(codes[0])}-{chr(codes[-1])}"] if is_han else []
    return re.compile(f"[{''.join(ranges)}]")


def in_batches(texts: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """Lists of texts with their bytes."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


class Characters:
    """How often each character occurs."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_CODE_POINTS, np.int64)

    @property
    def total(self) -> int:
        """Characters in all."""
        return int(self._counts.sum())

    def add(self, texts: Sequence[str]) -> int:
        """Count the characters of texts; returns how many these are."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        counts = np.bincount(codes)
        self._counts[: len(counts)] += counts
        return len(codes)

    def found(self) -> tuple[list[str], NDArray[np.int64]]:
        """The characters but for newlines, and their occurrences."""
        codes = np.flatnonzero(self._counts)
        codes = codes[codes != ord("\n")]
        return [chr(code) for code in codes.tolist()], self._counts[codes]


class Sample:
    """Documents up to `limit` bytes; beyond, a random sample in which each is equally likely."""

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._draw = random.Random(seed).random
        self._below = 1.0
        self._held: list[tuple[float, int, str, int]] = []  # draw, place, text, bytes
        self._size = 0
        self._places = 0

    def add(self, text: str) -> None:
        """Offer a document."""
        for part in _parts(text):
            self._places += 1
            draw = self._draw()
            if draw < self._below:
                size = len(part.encode())
                self._held.append((draw, self._places, part, size))
                self._size += size
                if self._size > 2 * self._limit:
                    self._shrink()

    def take(self) -> tuple[list[str], int]:
        """The sample in the order of the corpus, and its bytes."""
        self._shrink()
        self._held.sort(key=lambda held: held[1])
        return [text for _, _, text, _ in self._held], self._size

    def _shrink(self) -> None:
        if self._size <= self._limit:
            return
        self._held.sort()
        sizes = list(accumulate(size for *_, size in self._held))
        kept = next(i for i, size in enumerate(sizes) if size > self._limit)
        self._below = self._held[kept][0]
        del self._held[kept:]
        self._size = sizes[kept - 1] if kept else 0


def _parts(text: str) -> Iterator[str]:
    begin = 0
    while len(text) - begin > PART_CHARACTERS:
        end = text.rfind("\n", begin, begin + PART_CHARACTERS) + 1
        end = end if end > begin else begin + PART_CHARACTERS
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:]


class Texts:
    """A batch of documents as every vocabulary needs it, each form made once."""

    def __init__(self, documents: list[str], base: Tokenizer | None, threads: int) -> None:
        self.documents = documents
        self.threads = threads
        if base is None:
            return
        han = han_pattern()
        self.documents_base = base.encode_batch(documents, threads)
        self.documents_plain = np.array([han.search(text) is None for text in documents], bool)
        self.lines = [line for text in documents for line in text.split("\n") if line and not line.isspace()]
        self.lines_plain = np.array([han.search(line) is None for line in self.lines], bool)
        self.lines_base = base.encode_batch(self.lines, threads)


class Counter:
    """Counts how one vocabulary cuts the text."""

    def __init__(self, vocab: Vocab, base: Vocab | None) -> None:
        self._vocab = vocab
        self._base = base
        self._counts: NDArray[np.int64] = np.zeros(vocab.tokenizer.vocab_size, np.int64)
        self._sources: list[SourceUsage] = []
        self._tokens = self._base_tokens = 0
        self._drift = None if base is None else _DriftCounter(vocab, base)

    def add(self, texts: Texts) -> None:
        """Count a batch."""
        batch = self._vocab.tokenizer.encode_batch(texts.documents, texts.threads)
        self._counts += np.bincount(batch.ids, minlength=len(self._counts))
        self._tokens += len(batch.ids)
        if self._drift is not None:
            self._base_tokens += len(texts.documents_base.ids)
            self._drift.add(texts, batch)

    def end_source(self, path: str, documents: int, size: int, characters: int) -> None:
        """What was added since the last call is the text of one file."""
        before = (
            sum(source.tokens for source in self._sources),
            sum(source.base_tokens or 0 for source in self._sources),
        )
        base_tokens = None if self._base is None else self._base_tokens - before[1]
        tokens = self._tokens - before[0]
        self._sources.append(SourceUsage(path, documents, size, characters, tokens, base_tokens))

    def usage(self, characters: Characters) -> Usage:
        """The counts as figures."""
        vocab, counts = self._vocab, self._counts
        newline = vocab.newline
        newline_tokens = 0 if newline is None else int(counts[newline])
        makeable = np.array(vocab.makeable, np.intp)
        new = vocab.new(self._base)
        live_new = None if new is None else np.intersect1d(np.array(new, np.intp), makeable)
        frequent = None
        if live_new is not None:
            order = live_new[np.argsort(-counts[live_new], kind="stable")][:_FREQUENT].tolist()
            frequent = tuple((vocab.pieces[id], int(counts[id])) for id in order if counts[id])
        return Usage(
            tokens=self._tokens,
            base_tokens=None if self._base is None else self._base_tokens,
            byte_tokens=int(counts[vocab.ids_of("BYTE")].sum()) - newline_tokens,
            newline_tokens=newline_tokens,
            unknown_tokens=int(counts[vocab.tokenizer.unk_id]),
            renyi_efficiency=renyi_efficiency(counts),
            coverage=cover(vocab, *characters.found()),
            used=int(np.count_nonzero(counts)),
            unused=int(np.count_nonzero(counts[makeable] == 0)),
            used_new=None if live_new is None else int(np.count_nonzero(counts[live_new])),
            unused_new=None if live_new is None else vocab.spelled(live_new[counts[live_new] == 0].tolist()),
            frequent_new=frequent,
            sources=tuple(self._sources),
        )

    def drift(self) -> Drift | None:
        """What changed against the base; None if that was not counted."""
        return None if self._drift is None else self._drift.result()


def renyi_efficiency(counts: NDArray[Any]) -> float:
    """Renyi entropy (alpha 2.5) of frequencies over the logarithm of their number; 1 if all are equal.

    Source: Zouhar et al. 2023, "Tokenization and the Noiseless Channel" (arXiv 2306.16842).
    """
    used = counts[counts > 0]
    if not len(used) or len(counts) < 2:
        return 0.0
    shares = used / used.sum()
    return float(np.log((shares**_ALPHA).sum()) / (1 - _ALPHA) / np.log(len(counts)))


def changed(one: EncodedBatch, other: EncodedBatch, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the texts `among` have other ids in one batch than in the other."""
    lengths, others = np.diff(one.offsets), np.diff(other.offsets)
    result: NDArray[np.bool_] = among & (lengths != others)
    same = among & (lengths == others)
    numbers = np.flatnonzero(same)
    here, there = (batch.ids[np.repeat(same, np.diff(batch.offsets))] for batch in (one, other))
    owners: NDArray[np.intp] = np.repeat(numbers, lengths[numbers])
    result[owners[here != there]] = True
    return result


@dataclass
class _DriftCounter:
    vocab: Vocab
    base: Vocab

    def __post_init__(self) -> None:
        self._sums = dict.fromkeys(
            (
                *("lines", "longer_lines", "longer_documents", "documents_without_han", "changed_documents"),
                *("lines_without_han", "changed_lines", "ids_without_han", "changed_ids"),
            ),
            0,
        )
        self._longest: list[tuple[int, int, str]] = []  # more tokens, minus its place, the line
        self._changed: list[str] = []

    def add(self, texts: Texts, documents: EncodedBatch) -> None:
        base = texts.documents_base
        lines = self.vocab.tokenizer.encode_batch(texts.lines, texts.threads)
        more = np.diff(lines.offsets) - np.diff(texts.lines_base.offsets)
        documents_changed = changed(documents, base, texts.documents_plain)
        lines_changed = changed(lines, texts.lines_base, texts.lines_plain)
        which = np.flatnonzero(lines_changed).tolist()
        sums = {
            "longer_lines": np.count_nonzero(more > 0),
            "longer_documents": np.count_nonzero(np.diff(documents.offsets) > np.diff(base.offsets)),
            "documents_without_han": np.count_nonzero(texts.documents_plain),
            "changed_documents": np.count_nonzero(documents_changed),
            "lines_without_han": np.count_nonzero(texts.lines_plain),
            "changed_lines": len(which),
            "ids_without_han": np.diff(texts.lines_base.offsets)[texts.lines_plain].sum(),
            "changed_ids": sum(_between(lines[i], texts.lines_base[i]) for i in which),
        }
        longest = np.argsort(-more, kind="stable")[:_EXAMPLES].tolist()
        place = self._sums["lines"]
        held = [(int(more[i]), -place - i, texts.lines[i]) for i in longest if more[i] > 0]
        self._longest = nlargest(_EXAMPLES, [*self._longest, *held])
        self._changed += [texts.lines[i] for i in which[: _EXAMPLES - len(self._changed)]]
        self._sums["lines"] += len(texts.lines)
        for name, number in sums.items():
            self._sums[name] += int(number)

    def result(self) -> Drift:
        return Drift(
            **self._sums,
            longest=tuple(self._example(line) for _, _, line in self._longest),
            changed=tuple(self._example(line) for line in self._changed),
        )

    def _example(self, line: str) -> Example:
        sides = (vocab.spelled(vocab.tokenizer.encode(line)) for vocab in (self.base, self.vocab))
        return Example(line, *sides)


def _between(ids: NDArray[np.uint32], base: NDArray[np.uint32]) -> int:
    """Ids of the base from the first place that differs to the last."""
    shorter = min(len(ids), len(base))
    front = _equal(ids[:shorter], base[:shorter])
    back = _equal(ids[::-1][: shorter - front], base[::-1][: shorter - front])
    return max(len(base) - front - back, 1)


def _equal(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    """How many ids are equal before the first that is not."""
    differs = np.flatnonzero(one != other)
    return int(differs[0]) if len(differs) else len(one)
