"""`zhuzi tokenize`: a text in pieces."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import click

from zhuzi.cli.options import PATH
from zhuzi.errors import InputError

if TYPE_CHECKING:
    from zhuzi.tokenizer import TokenizedText, Tokenizer

#: A longer text is refused: nobody looks at its pieces, and offsets are made a byte at a time.
MAX_BYTES = 10_000_000

#: Tokens, and differences of two vocabularies, that tables list.
LISTED = 60

#: 256-colour backgrounds: pieces in turn, and bytes.
_PIECES, _BYTES = (153, 223), 250


@click.command()
@click.argument("text", metavar="TEXT|FILE|-")
@click.option(
    "--tokenizer", type=PATH, required=True, help="Tokenizer or model folder, or SentencePiece model."
)
@click.option("--against", type=PATH, help="Another one, to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: ids, pieces, offsets, counts.")
def tokenize(text: str, tokenizer: Path, against: Path | None, as_json: bool) -> None:
    """Show the pieces of TEXT, or of what a file holds; - is standard input.

    On a terminal neighbouring pieces have different colours, elsewhere a space is between them (a space of
    the text is `▁`). Offsets count code points. Neither BOS nor EOS is added. With --against the counts of
    two vocabularies are shown side by side, and the places where they cut differently.
    """
    from zhuzi.tokenizer import tokenize_text
    from zhuzi.tokenizer.tokenized import FORMAT
    from zhuzi.vocab.engines import load

    paths = [tokenizer] if against is None else [tokenizer, against]
    loaded = [load(path) for path in paths]
    given = _read(text)
    made = [tokenize_text(given, one) for one in loaded]
    if as_json:
        held = [
            {"path": os.fspath(path), "fingerprint": one.fingerprint, **shown.as_json()}
            for path, one, shown in zip(paths, loaded, made, strict=True)
        ]
        click.echo(json.dumps({"format": FORMAT, "text": given, "tokenizers": held}, ensure_ascii=False))
        return
    for path, one, shown in zip(paths, loaded, made, strict=True):
        if against is not None:
            click.echo(f"{path}:")
        click.echo(_pieces(shown, one))
        if against is None:
            _list_tokens(shown, one)
        click.echo(shown.counts())
    if against is not None:
        _compare(paths, loaded, made)


def _read(text: str) -> str:
    """The text itself, or that of the file it names."""
    if text == "-":
        if sys.stdin is None:
            raise click.UsageError("standard input is closed; give the text, or a file")
        return _decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    try:
        path = Path(text)
        is_there = bool(text) and os.path.lexists(path)
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        is_there = False
    if not is_there:
        return _decoded(os.fsencode(text), "the text")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one file, or give the text itself")
    with path.open("rb") as file:
        return _decoded(file.read(MAX_BYTES + 1), os.fspath(path))


def _decoded(data: bytes, what: str) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{what}: more than {MAX_BYTES:,} bytes; give a part of it, or see zhuzi corpus stats for figures"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{what}: not UTF-8 at byte {error.start:,}; convert it, as with: iconv -f gb18030 -t utf-8"
        ) from None


def _pieces(shown: TokenizedText, tokenizer: Tokenizer) -> str:
    """The pieces on one line, and a new line after each newline of the text."""
    colours = _has_colours()
    bytes_ = _byte_ids(tokenizer)
    lines: list[list[str]] = [[]]
    turn = 0
    for id, piece, (begin, end) in zip(shown.ids, shown.pieces, shown.offsets, strict=True):
        seen = _visible(piece)
        if colours:
            turn = 1 - turn
            seen = click.style(seen, fg=16, bg=_BYTES if id in bytes_ else _PIECES[turn])
        lines[-1].append(seen)
        if "\n" in shown.text[begin:end]:
            lines.append([])
    between = "" if colours else " "
    return "\n".join(between.join(line) for line in lines if line)


def _has_colours() -> bool:
    """Whether the output is a terminal that shows colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _byte_ids(tokenizer: Tokenizer) -> set[int]:
    return {id for id, piece in enumerate(tokenizer.pieces()) if piece.kind == "BYTE"}


def _visible(text: str) -> str:
    from zhuzi.corpus.characters import visible

    return "".join(letter if letter == " " else visible(letter) for letter in text)


def _list_tokens(shown: TokenizedText, tokenizer: Tokenizer) -> None:
    """The first tokens, one line each."""
    if not shown.ids:
        return
    rows = [("id", "offsets", "piece")]
    for id, piece, (begin, end) in list(zip(shown.ids, shown.pieces, shown.offsets, strict=True))[:LISTED]:
        rows.append((str(id), f"{begin}:{end}", _visible(piece)))
    for line in _aligned(rows, right=[0]):
        click.echo(line)
    if shown.tokens > LISTED:
        click.echo(f"... {shown.tokens - LISTED:,} more; --json has all")


def _compare(paths: Sequence[Path], loaded: Sequence[Tokenizer], made: Sequence[TokenizedText]) -> None:
    """Counts side by side, and where the two cut differently."""
    from zhuzi.tokenizer.tokenized import align

    one, other = made
    rows = [("", *map(str, paths))]
    rows.append(("tokens", f"{one.tokens:,}", f"{other.tokens:,}"))
    rows.append(("characters per token", f"{one.characters_a_token:.3f}", f"{other.characters_a_token:.3f}"))
    bytes_ = [
        sum(id in held for id in shown.ids) for shown, held in zip(made, map(_byte_ids, loaded), strict=True)
    ]
    rows.append(("byte tokens", *(f"{n:,}" for n in bytes_)))
    for line in ["", *_aligned(rows, right=[1, 2])]:
        click.echo(line)
    if other.tokens and one.tokens != other.tokens:
        more = one.tokens / other.tokens - 1
        click.echo(f"{paths[0]}: {abs(more):.1%} {'more' if more > 0 else 'fewer'} tokens than {paths[1]}")
    differing = [
        (stretch.begin, stretch.end, left, right)
        for stretch in align(one, other)
        if (left := [one.pieces[i] for i in stretch.one])
        != (right := [other.pieces[i] for i in stretch.other])
    ]
    if not differing:
        click.echo("the same pieces")
        return
    table: list[tuple[str, ...]] = [("offsets", str(paths[0]), str(paths[1]))]
    for begin, end, left, right in differing[:LISTED]:
        table.append((f"{begin}:{end}", *(" ".join(map(_visible, side)) for side in (left, right))))
    for line in ["", *_aligned(table)]:
        click.echo(line)
    if len(differing) > LISTED:
        click.echo(f"... {len(differing) - LISTED:,} more places")


def _aligned(rows: Sequence[tuple[str, ...]], right: Container[int] = ()) -> Iterator[str]:
    """Columns of a table, those of numbers `right` aligned to the right; Han characters are two wide."""
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            pad = " " * (width - _width(cell))
            cells.append(pad + cell if column in right else cell + pad)
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
