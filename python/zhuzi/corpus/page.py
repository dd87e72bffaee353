"""The figures of a corpus as one self-contained HTML file with pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zhuzi._show import count
from zhuzi.corpus.characters import visible
from zhuzi.record.marks import HTML_MARK

if TYPE_CHECKING:
    from zhuzi.corpus.stats import CorpusStats


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


def _folded(entries: Iterable[str], summary: str) -> str:
    listed = " ".join(html.escape(entry) for entry in entries)
    return f"<details><summary>{html.escape(summary)}</summary><p>{listed}</p></details>"


def page(stats: CorpusStats) -> str:
    """The figures as one HTML page."""
    facts = {
        "documents": f"{stats.documents:,}",
        "tokens": f"{stats.tokens:,}",
        "characters": f"{stats.characters:,}",
        "characters a token": f"{stats.characters_a_token:.3f}",
        "newlines": f"{stats.newline_tokens:,} tokens",
        "byte fallback": f"{100 * stats.share(stats.byte_tokens):.3f} % of the tokens, for "
        f"{count(stats.missing_kinds, 'different character')} without a piece",
    }
    parts = []
    if stats.missing_characters:
        missing = [(visible(character), n) for character, n in stats.missing_characters]
        parts.append(_bars(missing, "Most frequent characters without a piece"))
    if stats.new_pieces is not None and stats.new_tokens is not None:
        used = stats.new_pieces - len(stats.unused_new)
        facts["new pieces that occur"] = f"{used:,} of {stats.new_pieces:,}"
        facts["new pieces among the tokens"] = f"{100 * stats.share(stats.new_tokens):.1f} %"
        parts.append(_bars(list(stats.frequent_new), "Most frequent new pieces"))
        absent, cut = stats.absent_new, [f"{piece} {n:,}" for piece, n in stats.cut_otherwise]
        number = count(len(absent), "new piece")
        parts.append(_folded(absent, f"{number} unused, text not in the corpus"))
        number = count(len(cut), "new piece")
        parts.append(_folded(cut, f"{number} unused, text present but split differently"))
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
