"""`zhuzi sft --preview N`: records as the model will see them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi._show import count

if TYPE_CHECKING:
    from zhuzi.train.preview import PreviewedRecord

_STYLES: dict[str, dict[str, Any]] = {
    "read": {},
    "learned": {"fg": "green"},
    "control": {"fg": "bright_black"},
    "learned control": {"fg": "bright_green", "bold": True},
}

# Control characters of a record must not reach the terminal: shown as their pictures.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}


def show_records(recipe: Path, records: int, settings: tuple[str, ...]) -> None:
    """Print the first records of a recipe: what is learned green, without colours between ⟦ and ⟧."""
    from zhuzi.train.preview import preview_records

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    learned = click.style("green", fg="green") if coloured else "between ⟦ and ⟧"
    click.echo(f"what is learned is {learned}")
    for record in preview_records(recipe, records, settings=settings):
        click.echo()
        click.echo(click.style(_headline(record), bold=True))
        if record.ids:
            click.echo(_coloured(record) if coloured else _marked(record))


def _headline(record: PreviewedRecord) -> str:
    learned = sum(label >= 0 for label in record.labels)
    told = [f"{count(len(record.ids), 'token')}, {learned:,} learned"] if record.ids else []
    return f"{record.place}: {'; '.join([*told, *([record.note] if record.note else [])])}"


def _coloured(record: PreviewedRecord) -> str:
    return "".join(click.style(text.translate(_PICTURES), **_STYLES[kind]) for kind, text in record.parts)


def _marked(record: PreviewedRecord) -> str:
    shown, inside = "", False
    for kind, text in record.parts:
        learned = kind.startswith("learned")
        if learned != inside:
            shown += "⟦" if learned else "⟧"
            inside = learned
        shown += text.translate(_PICTURES)
    return shown + "⟧" * inside
