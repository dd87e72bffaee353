"""Parts of a page: tables, main figures, a verdict, the pieces of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from zhuzi.pages.text import Text, shown

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def table(head: Sequence[Text], rows: Iterable[Sequence[object]]) -> Markup:
    """A table. On a narrow screen it scrolls sideways by itself.

    A cell is a number (to the right; integers with commas), a `Text`, Markup, or None for an empty cell. A
    column whose first cell is a number has its heading to the right.
    """
    held = [list(row) for row in rows]
    first = held[0] if held else []
    headings = Markup().join(
        Markup("<th{}>{}</th>").format(_side(first[i] if i < len(first) else ""), shown(name))
        for i, name in enumerate(head)
    )
    lines = Markup().join(
        Markup("<tr>{}</tr>").format(
            Markup().join(Markup("<td{}>{}</td>").format(_side(cell), _cell(cell)) for cell in row)
        )
        for row in held
    )
    top = Markup("<thead><tr>{}</tr></thead>").format(headings) if head else Markup()
    return Markup('<div class="scroll"><table>{}<tbody>{}</tbody></table></div>').format(top, lines)


def _side(cell: object) -> Markup:
    number = isinstance(cell, int | float) or (isinstance(cell, str) and _NUMBER.fullmatch(cell))
    return Markup(' class="n"') if number else Markup()


_NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]\d+)?( ?%)?")


def _cell(cell: object) -> Markup:
    if cell is None:
        return Markup()
    if isinstance(cell, tuple):
        return shown((str(cell[0]), str(cell[1])))
    return escape(f"{cell:,}" if isinstance(cell, int | float) else cell)


def figures(entries: Iterable[tuple[object, Text]]) -> Markup:
    """The main figures, large, each with a label below: (value, label)."""
    return Markup('<dl class="figures">{}</dl>').format(
        Markup().join(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(shown(label), _cell(value))
            for value, label in entries
        )
    )


def verdict(good: bool, text: Text) -> Markup:
    """A box that says whether all is well."""
    return Markup('<p class="verdict {}">{} {}</p>').format(
        "good" if good else "bad", "✓" if good else "✗", shown(text)
    )


def tokens(pieces: Iterable[str], kinds: Sequence[str] | None = None) -> Markup:
    """The pieces of a text, each in a box.

    Bytes are shown by their hexadecimal digits, in boxes of their own kind. `kinds` gives every piece a
    colour: "new" (of an extended vocabulary), "old", "bad", or "" for none.
    """
    boxes = []
    for i, piece in enumerate(pieces):
        byte = _BYTE.fullmatch(piece)
        kind = "byte" if byte else kinds[i] if kinds else ""
        seen = byte[1] if byte else piece.replace("\n", "⏎").replace("\t", "⇥") or "∅"
        boxes.append(Markup('<span class="token {}">{}</span>').format(kind, seen))
    return Markup('<span class="tokens">{}</span>').format(Markup("<wbr>").join(boxes))


def folded(summary: Text, content: object) -> Markup:
    """Something of which only the summary is shown at first."""
    return Markup("<details><summary>{}</summary>{}</details>").format(shown(summary), content)
