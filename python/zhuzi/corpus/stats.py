"""What an encoded corpus is made of: lengths, pieces, sources; in words and as one HTML file."""

from __future__ import annotations

import html
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhuzi._output import HTML_MARK, new_file
from zhuzi.errors import MismatchError
from zhuzi.shards import Corpus
from zhuzi.tokenizer import Tokenizer

#: Tokens counted at a time.
CHUNK = 1 << 24

#: New pieces named one by one.
SHOWN_PIECES = 40

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True)
class SourceStats:
    """What came from one file."""

    path: str
    documents: int
    tokens: int
    characters: int


@dataclass(frozen=True)
class CorpusStats:
    """Figures of a corpus. Lengths are in tokens, begin- and end-of-sequence ids included."""

    folder: Path
    documents: int
    tokens: int
    characters: int
    text_bytes: int
    byte_tokens: int
    """Tokens that stand for a byte of a character without a piece."""
    percentiles: dict[int, int]
    """Lengths of documents: so many percent are at most as long."""
    histogram: tuple[tuple[int, int], ...]
    """Length from (a power of two, up to the next), and how many documents have it."""
    new_pieces: int | None
    """Pieces behind the base vocabulary; `None` if its size was not told, as all about new pieces."""
    new_tokens: int | None
    """Tokens that are new pieces."""
    frequent_new: tuple[tuple[str, int], ...]
    """The most frequent new pieces, and how often they occur."""
    unused_new: tuple[str, ...]
    """New pieces that never occur."""
    sources: tuple[SourceStats, ...]

    def text(self) -> str:
        """The figures, a line each."""
        share = self.byte_tokens / max(self.tokens, 1)
        lines = [
            f"{self.folder}: {self.documents:,} documents, {self.tokens:,} tokens, "
            f"{self.characters:,} characters ({self.characters / max(self.tokens, 1):.3f} a token)",
            f"byte fallback: {self.byte_tokens:,} tokens ({100 * share:.3f} %)",
            "tokens a document: " + ", ".join(f"{p} % {n:,}" for p, n in self.percentiles.items()),
        ]
        if self.new_pieces is not None and self.new_tokens is not None:
            used = self.new_pieces - len(self.unused_new)
            lines += [
                f"new pieces: {used:,} of {self.new_pieces:,} occur, "
                f"as {100 * self.new_tokens / max(self.tokens, 1):.1f} % of the tokens",
                "most frequent: " + " ".join(f"{piece} {n:,}" for piece, n in self.frequent_new[:12]),
            ]
            if self.unused_new:
                lines.append("never used, some: " + " ".join(self.unused_new[:12]))
        lines += [
            f"{source.path}: {source.documents:,} documents, {source.tokens:,} tokens, "
            f"{source.characters / max(source.tokens, 1):.3f} characters a token"
            for source in self.sources
        ]
        return "\n".join(lines)

    def write_html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the figures as one self-contained HTML file with pictures.

        Raises `OutputExistsError` if the file is there, and `overwrite` is not set or Zhuzi did not write it.
        """
        with new_file(path, kind="page", overwrite=overwrite, inputs=[self.folder]) as made:
            made.write_text(_page(self), "utf-8")


def corpus_stats(
    corpus: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | Tokenizer,
    *,
    base: int | None = None,
) -> CorpusStats:
    """Count what a corpus is made of. Reads every token once; `base` is the size of the base vocabulary.

    Raises `MismatchError` if another tokenizer made the corpus, `InputError` if it is damaged.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    opened = Corpus(Path(corpus))
    if opened.tokenizer_fingerprint != tokenizer.fingerprint:
        raise MismatchError(
            f"{opened.path}: encoded by another tokenizer ({opened.vocab_size} ids, this one has "
            f"{tokenizer.vocab_size}); name the one it was made with"
        )
    manifest = json.loads((opened.path / "manifest.json").read_bytes())
    size = tokenizer.vocab_size
    counts: NDArray[np.int64] = np.zeros(size, np.int64)
    lengths: list[NDArray[np.int64]] = []
    for shard in opened.shards:
        lengths.append(np.diff(shard.ends, prepend=0))
        for start in range(0, shard.tokens, CHUNK):
            counts += np.bincount(shard.data[start : start + CHUNK], minlength=size)[:size]
    pieces = [tokenizer.id_to_token(id) for id in range(size)]
    byte_tokens = sum(int(counts[id]) for id, piece in enumerate(pieces) if _is_byte(piece))
    all_lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    powers = np.floor(np.log2(np.maximum(all_lengths, 1))).astype(np.int64)
    numbers: list[int] = np.bincount(powers).tolist()
    histogram = tuple((1 << p, n) for p, n in enumerate(numbers) if n)
    points = np.asarray(np.percentile(all_lengths, PERCENTILES, method="lower"))
    new = range(base, size - len(tokenizer.added_tokens)) if base is not None else None
    by_count = sorted(new or (), key=lambda id: -int(counts[id]))
    return CorpusStats(
        folder=opened.path,
        documents=len(opened),
        tokens=opened.tokens,
        characters=manifest["characters"],
        text_bytes=manifest["text_bytes"],
        byte_tokens=byte_tokens,
        percentiles={p: int(n) for p, n in zip(PERCENTILES, points, strict=True)},
        histogram=histogram,
        new_pieces=len(new) if new is not None else None,
        new_tokens=int(counts[new.start : new.stop].sum()) if new is not None else None,
        frequent_new=tuple((pieces[id], int(counts[id])) for id in by_count[:SHOWN_PIECES] if counts[id]),
        unused_new=tuple(pieces[id] for id in new or () if not counts[id]),
        sources=_by_source(manifest),
    )


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _by_source(manifest: dict[str, Any]) -> tuple[SourceStats, ...]:
    sums: dict[int, list[int]] = {}
    for shard in manifest["shards"]:
        for part in shard["inputs"]:
            entry = sums.setdefault(part["source"], [0, 0, 0])
            for slot, name in enumerate(("documents", "tokens", "characters")):
                entry[slot] += part[name]
    paths = [str(source["path"]) for source in manifest["sources"]]
    return tuple(SourceStats(paths[number], *sums[number]) for number in sorted(sums))


def _bars(rows: list[tuple[str, int]], title: str) -> str:
    """Horizontal bars as SVG, with their names and figures as text."""
    most = max((n for _, n in rows), default=1) or 1
    height = 20 * len(rows)
    bars = "".join(
        f'<text x="190" y="{20 * i + 14}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="200" y="{20 * i + 3}" width="{max(400 * n / most, 1):.1f}" height="14"/>'
        f'<text x="{205 + 400 * n / most:.1f}" y="{20 * i + 14}">{n:,}</text>'
        for i, (name, n) in enumerate(rows)
    )
    return (
        f'<h2>{html.escape(title)}</h2><svg width="720" height="{height}" role="img" '
        f'aria-label="{html.escape(title)}">{bars}</svg>'
    )


def _page(stats: CorpusStats) -> str:
    per_token = stats.characters / max(stats.tokens, 1)
    facts = {
        "documents": f"{stats.documents:,}",
        "tokens": f"{stats.tokens:,}",
        "characters": f"{stats.characters:,}",
        "characters a token": f"{per_token:.3f}",
        "byte fallback": f"{100 * stats.byte_tokens / max(stats.tokens, 1):.3f} % of the tokens",
    }
    parts = []
    if stats.new_pieces is not None and stats.new_tokens is not None:
        used = stats.new_pieces - len(stats.unused_new)
        facts["new pieces that occur"] = f"{used:,} of {stats.new_pieces:,}"
        facts["new pieces among the tokens"] = f"{100 * stats.new_tokens / max(stats.tokens, 1):.1f} %"
        parts.append(_bars(list(stats.frequent_new), "Most frequent new pieces"))
        unused = " ".join(html.escape(piece) for piece in stats.unused_new)
        count = len(stats.unused_new)
        parts.append(f"<details><summary>{count:,} new pieces never used</summary><p>{unused}</p></details>")
    lengths = [(f"{length:,} to {2 * length - 1:,}", n) for length, n in stats.histogram]
    parts.insert(0, _bars(lengths, "Documents by their tokens"))
    sources = "".join(
        f"<tr><td>{html.escape(s.path)}</td><td>{s.documents:,}</td><td>{s.tokens:,}</td>"
        f"<td>{s.characters / max(s.tokens, 1):.3f}</td></tr>"
        for s in stats.sources
    )
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts.items())
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">{HTML_MARK}<title>{html.escape(str(stats.folder))}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
svg {{ font-size: 12px; max-width: 100% }} rect {{ fill: #b5462f }}
th {{ text-align: left; padding-right: 2em; font-weight: normal }} td {{ padding-right: 2em }}
</style>
<h1>{html.escape(stats.folder.name)}</h1>
<table>{rows}</table>
{"".join(parts)}
<h2>By source</h2>
<table><tr><th>file</th><th>documents</th><th>tokens</th><th>characters a token</th></tr>{sources}</table>
</html>
"""
