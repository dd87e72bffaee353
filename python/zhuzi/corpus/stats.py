"""What an encoded corpus consists of: lengths, pieces, sources; as text and as one HTML file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhuzi import _core
from zhuzi._process import available_cores
from zhuzi._show import Report, count
from zhuzi.corpus.characters import LONGEST, ByteCharacters, visible
from zhuzi.corpus.dataset import Corpus
from zhuzi.corpus.use import (
    BaseComparison,
    DocumentCharacters,
    DocumentFit,
    compare_with_base,
    cumulative_use,
)
from zhuzi.errors import MismatchError
from zhuzi.record.output import new_file
from zhuzi.tokenizer import Tokenizer

#: Tokens counted at a time.
CHUNK = 1 << 24

#: So many pieces and characters are named, on the page and in the text.
SHOWN_PIECES = 40
SHOWN = 12

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True, repr=False)
class SourceStats(Report):
    """What came from one file."""

    path: str
    documents: int
    tokens: int
    characters: int

    def _headline(self) -> str:
        return f"{self.path}: {count(self.documents, 'document')}, {count(self.tokens, 'token')}"


@dataclass(frozen=True, repr=False)
class CorpusStats(Report):
    """Figures of a corpus. Lengths are in tokens, begin- and end-of-sequence ids included."""

    folder: Path
    documents: int
    tokens: int
    characters: int
    text_bytes: int
    newline_tokens: int
    """Tokens of the byte 0x0A: newlines, where the vocabulary has no piece for one."""
    byte_tokens: int
    """Other byte tokens: the bytes of characters without a piece."""
    missing_characters: tuple[tuple[str, int], ...]
    """The most frequent characters without a piece, and how often they occur."""
    missing_kinds: int
    """Different characters without a piece, newlines aside."""
    percentiles: dict[int, int]
    """Lengths of documents by percentile (0 to 100)."""
    histogram: tuple[tuple[int, int], ...]
    """A power of two, and the number of documents from that length up to the next power."""
    new_pieces: int | None
    """Pieces after the base vocabulary. Without its size, all figures of new pieces are `None` or empty."""
    new_tokens: int | None
    """Tokens that are new pieces."""
    frequent_new: tuple[tuple[str, int], ...]
    """The most frequent new pieces, and how often they occur."""
    unused_new: tuple[str, ...]
    """New pieces that never occur as tokens."""
    cut_otherwise: tuple[tuple[str, int], ...]
    """Unused new pieces whose text is in the corpus nevertheless, and how often, most frequent first: other
    pieces are merged there before them. The text of the other unused pieces is not in the corpus."""
    sources: tuple[SourceStats, ...]
    tokenizer: Path | None = None
    """The tokenizer's folder, if it was named."""
    tokenizer_fingerprint: str = ""
    base: str | None = None
    """What was given as the base: a size, or a path."""
    against_base: BaseComparison | None = None
    """What the new pieces save. None unless the base's tokenizer is known."""
    cumulative_new: tuple[tuple[int, float], ...] = ()
    """(n, the share of all uses of new pieces that the n most frequent have), for some n up to all used."""
    worst: tuple[DocumentFit, ...] = ()
    """The documents of at least 32 tokens with the fewest characters per token, the worst first."""

    def text(self) -> str:
        """The figures, one per line."""
        share = 100 * self.share(self.byte_tokens)
        lines = [
            f"{self.folder}: {count(self.documents, 'document')}, {count(self.tokens, 'token')}, "
            f"{count(self.characters, 'character')} ({self.characters_a_token:.3f} per token)",
            f"byte fallback: {count(self.byte_tokens, 'token')} ({share:.3f} %), for "
            f"{count(self.missing_kinds, 'different character')} without a piece",
        ]
        if self.against_base is not None:
            lines.append(self.against_base._headline())
        if self.missing_characters:
            lines.append("most frequent of these: " + _frequent(self.missing_characters))
        if self.newline_tokens:
            lines.append(f"newlines: {count(self.newline_tokens, 'token')}")
        lines.append("tokens per document: " + ", ".join(f"{p} % {n:,}" for p, n in self.percentiles.items()))
        if self.new_pieces is not None and self.new_tokens is not None:
            used = self.new_pieces - len(self.unused_new)
            lines += [
                f"new pieces: {used:,} of {self.new_pieces:,} occur, "
                f"as {100 * self.share(self.new_tokens):.1f} % of the tokens",
                "most frequent: " + _frequent(self.frequent_new),
            ]
            if absent := self.absent_new:
                lines.append(
                    f"unused, text not in the corpus: {count(len(absent), 'new piece')}, "
                    f"such as {' '.join(absent[:SHOWN])}"
                )
            if self.cut_otherwise:
                lines.append(
                    "unused, text present but split differently: "
                    f"{count(len(self.cut_otherwise), 'new piece')}, most frequent: "
                    f"{_frequent(self.cut_otherwise)}"
                )
        lines += [
            f"{source.path}: {count(source.documents, 'document')}, {count(source.tokens, 'token')}, "
            f"{source.characters / max(source.tokens, 1):.3f} characters per token"
            for source in self.sources
        ]
        if self.worst:
            listed = ", ".join(f"{d.number:,} ({d.characters_a_token:.2f})" for d in self.worst)
            lines += [
                f"fewest characters per token, by document: {listed}",
                f"to see the first: {self.show_command(self.worst[0].number)}",
            ]
        return "\n".join(lines)

    def show_command(self, number: int) -> str:
        """The command that shows document `number`."""
        tokenizer = str(self.tokenizer or "TOKENIZER")
        return shlex.join(
            ["zhuzi", "corpus", "show", str(self.folder), str(number), "--tokenizer", tokenizer]
        )

    @property
    def absent_new(self) -> list[str]:
        """New pieces whose text is not in the corpus."""
        cut = {piece for piece, _ in self.cut_otherwise}
        return [piece for piece in self.unused_new if piece not in cut]

    @property
    def characters_a_token(self) -> float:
        """Characters of text for each token."""
        return self.characters / max(self.tokens, 1)

    def share(self, tokens: int) -> float:
        """So many tokens as a share (0 to 1) of all."""
        return tokens / max(self.tokens, 1)

    def _headline(self) -> str:
        return (
            f"{self.folder}: {count(self.documents, 'document')}, {count(self.tokens, 'token')}, "
            f"{self.characters_a_token:.3f} characters per token"
        )

    def write_html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the figures as one self-contained HTML file with charts, in English and Chinese.

        Raises `OutputExistsError` if the file is there, and `overwrite` is not set or Zhuzi did not write it;
        `ModuleNotFoundError` without the extra `pages`.
        """
        from zhuzi.corpus.page import stats_page

        with new_file(path, kind="page", overwrite=overwrite, inputs=[self.folder]) as made:
            made.write_text(stats_page(self, Path(path)), "utf-8")


def corpus_stats(
    corpus: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | Tokenizer,
    *,
    base: int | str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CorpusStats:
    """Count what a corpus consists of.

    `base` is the base vocabulary: its size, tokenizer folder or model file. With a folder or file, up to
    32 MB of the text (of a larger corpus, evenly spaced documents) are encoded with it too, to see what the
    new pieces save.

    Reads every token, in bounded memory: once to count, and if some new pieces never occur, once more on
    `num_threads` threads to see whether their text does. `progress(bytes, total_bytes)` is called a few times
    per second; the total doubles when the second pass begins.

    Raises `MismatchError` if another tokenizer made the corpus, `InputError` if it is damaged.
    """
    place = None if isinstance(tokenizer, Tokenizer) else Path(tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    old = None if base is None or isinstance(base, int) else _load_base(Path(base))
    first_new = base if isinstance(base, int) else old.vocab_size if old else None
    opened = Corpus(Path(corpus))
    if opened.tokenizer_fingerprint != tokenizer.fingerprint:
        raise MismatchError(
            f"{opened.path}: encoded by another tokenizer ({opened.vocab_size} ids, this one has "
            f"{tokenizer.vocab_size}); name the one it was made with"
        )
    manifest = opened.manifest()
    threads = num_threads if num_threads is not None else available_cores()
    size, total = tokenizer.vocab_size, sum(shard.data.nbytes for shard in opened.shards)
    pieces = [piece.text for piece in tokenizer.pieces()]
    counts, characters, documents = _count(opened, tokenizer, pieces, total, progress)
    lengths = [np.diff(shard.ends, prepend=0) for shard in opened.shards]
    percentiles, histogram = _lengths(np.concatenate(lengths) if lengths else np.zeros(0, np.int64))
    new = range(first_new, size - len(tokenizer.added_tokens)) if first_new is not None else None
    by_count = sorted(new or (), key=lambda id: -int(counts[id]))
    unused = [id for id in new or () if not counts[id]]
    newlines = int(counts[characters.newline]) if characters.newline is not None else 0
    found = characters.found()
    return CorpusStats(
        folder=opened.path,
        documents=len(opened),
        tokens=opened.tokens,
        characters=manifest["characters"],
        text_bytes=manifest["text_bytes"],
        newline_tokens=newlines,
        byte_tokens=int(counts[characters.byte_ids].sum()) - newlines,
        missing_characters=tuple(found[:SHOWN_PIECES]),
        missing_kinds=len(found),
        percentiles=percentiles,
        histogram=histogram,
        new_pieces=len(new) if new is not None else None,
        new_tokens=int(counts[new.start : new.stop].sum()) if new is not None else None,
        frequent_new=tuple((pieces[id], int(counts[id])) for id in by_count[:SHOWN_PIECES] if counts[id]),
        unused_new=tuple(pieces[id] for id in unused),
        cut_otherwise=_in_text(opened, tokenizer, unused, threads, total, progress),
        sources=_by_source(manifest),
        tokenizer=place,
        tokenizer_fingerprint=tokenizer.fingerprint,
        base=None if base is None else str(base),
        against_base=compare_with_base(opened, manifest, tokenizer, old, threads) if old else None,
        cumulative_new=cumulative_use(counts[new.start : new.stop]) if new is not None else (),
        worst=documents.worst(),
    )


def _count(
    corpus: Corpus,
    tokenizer: Tokenizer,
    pieces: Sequence[str],
    total: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[NDArray[np.int64], ByteCharacters, DocumentCharacters]:
    """Read every token once: occurrences of each, characters without a piece, characters of documents."""
    counts: NDArray[np.int64] = np.zeros(tokenizer.vocab_size, np.int64)
    characters, documents = ByteCharacters(pieces), DocumentCharacters(tokenizer)
    done = 0
    for shard in corpus.shards:
        documents.begin(len(shard))
        for start in range(0, shard.tokens, CHUNK):
            chunk = shard.data[start : start + CHUNK]
            counts += np.bincount(chunk, minlength=len(counts))[: len(counts)]
            characters.count(shard.data[start : start + CHUNK + LONGEST - 1], len(chunk))
            documents.count(chunk, start, shard.ends)
            done += chunk.nbytes
            if progress is not None:
                progress(done, total)
        documents.end(shard.ends)
    return counts, characters, documents


def _load_base(path: Path) -> Tokenizer:
    return Tokenizer.from_dir(path) if path.is_dir() else Tokenizer.from_sentencepiece(path)


def _lengths(lengths: NDArray[np.int64]) -> tuple[dict[int, int], tuple[tuple[int, int], ...]]:
    """Percentiles and histogram of the lengths of documents."""
    if not len(lengths):
        return {}, ()
    points = np.asarray(np.percentile(lengths, PERCENTILES, method="lower"))
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    numbers: list[int] = np.bincount(powers).tolist()
    return (
        {p: int(n) for p, n in zip(PERCENTILES, points, strict=True)},
        tuple((1 << p, n) for p, n in enumerate(numbers) if n),
    )


def _in_text(
    corpus: Corpus,
    tokenizer: Tokenizer,
    ids: list[int],
    threads: int,
    total: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[tuple[str, int], ...]:
    """The pieces whose text is in the corpus, and how often, most frequent first."""
    # Byte and control pieces have no text of their own.
    kinds = [piece.kind for piece in tokenizer.pieces()]
    spelled = [id for id in ids if kinds[id] in {"NORMAL", "USER_DEFINED", "UNUSED"}]
    if not spelled or not total:
        return ()
    tell = None if progress is None else lambda done: progress(total + done, 2 * total)
    numbers = _core.count_occurrences(corpus.path, tokenizer.compiled, spelled, threads, tell)
    found = [(tokenizer.id_to_token(id), n) for id, n in zip(spelled, numbers, strict=True) if n]
    return tuple(sorted(found, key=lambda entry: -entry[1]))


def _frequent(entries: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{visible(text)} {n:,}" for text, n in entries[:SHOWN])


def _by_source(manifest: dict[str, Any]) -> tuple[SourceStats, ...]:
    sums: dict[int, list[int]] = {}
    for shard in manifest["shards"]:
        for part in shard["inputs"]:
            entry = sums.setdefault(part["source"], [0, 0, 0])
            for slot, name in enumerate(("documents", "tokens", "characters")):
                entry[slot] += part[name]
    paths = [str(source["path"]) for source in manifest["sources"]]
    return tuple(SourceStats(paths[number], *sums[number]) for number in sorted(sums))
