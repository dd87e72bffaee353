"""Figures as one self-contained HTML file: a table of facts, bar charts, lists that unfold."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from zhuzi.record.marks import HTML_MARK


def bars(rows: Sequence[tuple[str, int]], title: str) -> str:
    """A horizontal bar chart as SVG, with names and figures as text."""
    most = max((n for _, n in rows), default=1) or 1
    height = 20 * len(rows)
    shapes = "".join(
        f'<text x="190" y="{20 * i + 14}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="200" y="{20 * i + 3}" width="{max(400 * n / most, 1):.1f}" height="14"/>'
        f'<text x="{205 + 400 * n / most:.1f}" y="{20 * i + 14}">{n:,}</text>'
        for i, (name, n) in enumerate(rows)
    )
    return (
        f'<h2>{html.escape(title)}</h2><svg width="720" height="{height}" role="img" '
        f'aria-label="{html.escape(title)}">{shapes}</svg>'
    )


def folded(entries: Iterable[str], summary: str) -> str:
    """A list of which only the summary is shown at first."""
    listed = " ".join(html.escape(entry) for entry in entries)
    return f"<details><summary>{html.escape(summary)}</summary><p>{listed}</p></details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line of headings."""
    headings = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{headings}</tr>{lines}</table>"


def page(title: str, heading: str, facts: Mapping[str, str], parts: Iterable[str]) -> str:
    """The whole page: `facts` as a table, then `parts`, which are HTML."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
    )
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">{HTML_MARK}<title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
svg {{ font-size: 12px; max-width: 100% }} rect {{ fill: #b5462f }}
th {{ text-align: left; padding-right: 2em; font-weight: normal }} td {{ padding-right: 2em }}
</style>
<h1>{html.escape(heading)}</h1>
<table>{rows}</table>
{body}
</html>
"""
