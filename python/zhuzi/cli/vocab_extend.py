"""`zhuzi vocab extend`: continued BPE."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi._show import count, some
from zhuzi.cli import options
from zhuzi.cli.options import PATH, say
from zhuzi.vocab.sample import SAMPLE_BYTES, SAMPLE_RANGE

if TYPE_CHECKING:
    from zhuzi.vocab import ExtendedVocab, TrainingProgress

#: Seconds between two lines of a log.
LOG_SECONDS = 10.0


@click.command("extend")
@click.argument("inputs", nargs=-1, type=PATH)
@click.option("--base", type=PATH, required=True, help="The base: its folder, or its tokenizer.model (BPE).")
@options.out
@click.option("--new-pieces", type=click.IntRange(min=1), default=None, help="Number of new pieces.")
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    default=None,
    help="Number of ids in all, added tokens included, instead of --new-pieces; such as a multiple of 64.",
)
@click.option(
    "--scripts",
    type=click.Choice(["han", "all"]),
    default="han",
    show_default=True,
    help="han: a Han character in every new piece, text without Han keeps its ids. all: every script.",
)
@click.option("--counts", type=PATH, default=None, help="File of words with counts: word, tab, count.")
@click.option(
    "--characters",
    type=PATH,
    default=None,
    help="Characters that come in first: common (the 8,105 of the national table), none, or a file of them. "
    "[default: common with --scripts han, none with all]",
)
@click.option(
    "--max-length",
    default=16,
    show_default=True,
    type=click.IntRange(2, 64),
    help="Characters of the longest new piece.",
)
@click.option(
    "--min-count",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens that a new piece must save in the text.",
)
@click.option("--protected", type=PATH, default=None, help="File of pieces that must come in, one a line.")
@click.option("--forbidden", type=PATH, default=None, help="File of pieces that must not, one a line.")
@click.option(
    "--add-token",
    "add_tokens",
    multiple=True,
    help='Added token, with the next id, such as "[PAD]"; may be repeated.',
)
@click.option(
    "--sample-bytes",
    default=SAMPLE_BYTES,
    show_default=True,
    type=click.IntRange(*SAMPLE_RANGE),
    help="Learn from a random sample of at most this many bytes of text; it determines the memory used.",
)
@click.option("--seed", default=42, show_default=True, type=int, help="Seed of the sample.")
@options.fields
@options.split
@options.separator
@options.stdin_format
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do at a record that cannot be read.",
)
@options.threads
@options.overwrite
def extend(
    inputs: tuple[Path, ...],
    base: Path,
    out: Path,
    split: str | None,
    separator: str | None,
    threads: int | None,
    protected: Path | None,
    forbidden: Path | None,
    **settings: Any,
) -> None:
    """Learn new pieces for a base from text (continued BPE) and write a tokenizer folder.

    INPUTS may be anything that `zhuzi corpus encode` reads; --counts adds counted words or stands alone.
    Every new piece is reachable and no old one is lost. The base's pieces keep their ids.
    """
    from zhuzi.vocab import extend_vocab

    settings["split"] = split or ("line" if separator is None else "separator")
    with _shown() as progress:
        made = extend_vocab(
            inputs,
            base,
            out,
            separator=separator,
            num_threads=threads,
            protected=protected or (),
            forbidden=forbidden or (),
            progress=progress,
            **settings,
        )
    for line in _report(made):
        say("{line}", line=line)


def _report(made: ExtendedVocab) -> list[str]:
    """What was written, from what, and what was moved or left out."""
    added = made.vocab_size - made.base_size - made.new_pieces
    lines = [
        f"{made.folder}: {made.vocab_size:,} ids = {made.base_size:,} of the base + {made.new_pieces:,} new "
        f"+ {count(added, 'added token')}"
    ]
    if made.characters:
        unseen = f", {made.unseen_characters:,} of them not in the text" if made.unseen_characters else ""
        lines.append(f"characters that came in first: {made.characters:,}{unseen}")
    from_text = f"{count(made.documents, 'document')} of {_megabytes(made.bytes)}" if made.documents else ""
    from_words = count(made.words, "counted word") if made.words else ""
    lines.append("learned from " + " and ".join(filter(None, [from_text, from_words])))
    if made.sampled:
        lines.append(
            f"used {_megabytes(made.used_bytes)} of {_megabytes(made.bytes)} (sampled, seed {made.seed}); "
            "--sample-bytes takes more"
        )
    if made.moved:
        moves = [f"{token} {before} to {after}" for token, (before, after) in made.moved.items()]
        lines.append(
            f"added tokens of the base moved: {some(moves)} (model extend moves the rows that they have; "
            "zhuzi.json has the table)"
        )
    if made.already:
        lines.append(
            "in the base already, not added again: "
            + some([f"{token} (id {id})" for token, id in made.already.items()])
        )
    return [*lines, *made.notes]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size / 1e6:,.1f} MB"


@contextmanager
def _shown() -> Iterator[Callable[[TrainingProgress], None]]:
    """Shows the progress: a bar on a terminal, a line every ten seconds in a log."""
    import tqdm

    terminal = sys.stderr.isatty()
    bar = tqdm.tqdm(total=100, bar_format="{desc}: {percentage:3.0f} %|{bar}|", disable=not terminal)
    last = -LOG_SECONDS  # the first line at once

    def show(state: TrainingProgress) -> None:
        nonlocal last
        phase = {"reading": "reading", "counting": "counting", "training": "learning"}[state.phase]
        if terminal:
            bar.set_description(phase, refresh=False)
            bar.update(100 * (state.share or 0) - bar.n)
        elif time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            share = "" if state.share is None else f" {state.share:.0%},"
            click.echo(f"{phase}:{share} {state.seconds:.0f} s", err=True)

    with bar:
        yield show
