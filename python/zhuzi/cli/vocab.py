"""`zhuzi vocab`: extend a base's vocabulary, or train a donor and merge it; audit the result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.audit import audit
from zhuzi.cli.options import OUT_FILE, PATH, say
from zhuzi.cli.vocab_export import export
from zhuzi.cli.vocab_extend import extend
from zhuzi.cli.vocab_merge import merge
from zhuzi.vocab.sample import LINE_BYTES, RESERVED, SAMPLE_BYTES, SAMPLE_RANGE

if TYPE_CHECKING:
    from zhuzi.vocab import TrainedVocab, TrainingProgress

#: Seconds between two lines of a log.
LOG_SECONDS = 10.0


@click.group(cls=options.Road)
def vocab() -> None:
    """Give a base model's vocabulary Chinese pieces, learned from text or a donor's, and check the result."""


vocab.add_command(extend)


@vocab.command("train")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=OUT_FILE, required=True, help="Model file to write, such as donor.model.")
@click.option(
    "--vocab-size", default=20_000, show_default=True, type=click.IntRange(min=4), help="Number of pieces."
)
@click.option(
    "--type",
    "model_type",
    default="unigram",
    show_default=True,
    type=click.Choice(["unigram", "bpe"]),
    help="Kind of model; the published donor is unigram.",
)
@click.option(
    "--character-coverage",
    default=0.9995,
    show_default=True,
    type=click.FloatRange(min=0.98, max=1),
    help="Share of the text's characters that become pieces.",
)
@click.option(
    "--sample-bytes",
    default=SAMPLE_BYTES,
    show_default=True,
    type=click.IntRange(*SAMPLE_RANGE),
    help="Train on a random sample of at most this many bytes of text; it determines the memory used.",
)
@click.option("--seed", default=42, show_default=True, type=int, help="Seed of the sample.")
@options.fields
@options.split
@options.separator
@options.stdin_format
@options.on_error
@options.threads
@options.overwrite
def train(
    inputs: tuple[Path, ...],
    out: Path,
    split: str | None,
    separator: str | None,
    threads: int | None,
    **settings: Any,
) -> None:
    """Train a donor vocabulary on INPUTS, which may be anything that `zhuzi corpus encode` reads.

    The published donor has 20,000 unigram pieces.
    """
    from zhuzi.vocab import train_vocab

    settings["split"] = split or ("line" if separator is None else "separator")
    with _shown(settings["vocab_size"]) as progress:
        made = train_vocab(
            inputs, out, separator=separator, num_threads=threads, progress=progress, **settings
        )
    for line in _report(made):
        say("{line}", line=line)


def _report(made: TrainedVocab) -> list[str]:
    """What was written, from what, and what was left out or changed."""
    lines = [
        f"{made.path}: {count(made.pieces, 'piece')} from {count(made.used_documents, 'document')} of "
        f"{count(made.used_characters, 'character')}"
    ]
    if made.sampled:
        lines.append(
            f"used {_megabytes(made.used_bytes)} of {_megabytes(made.bytes)} (sampled, seed {made.seed}); "
            "--sample-bytes takes more"
        )
    if made.cut_lines:
        lines.append(f"{count(made.cut_lines, 'line')} of more than {LINE_BYTES:,} bytes cut into several")
    if made.reserved_characters:
        lines.append(
            f"{count(made.reserved_characters, 'character')} {RESERVED} (U+2585), which SentencePiece "
            "reserves, taken as spaces"
        )
    return [*lines, *made.notes]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size / 1e6:,.1f} MB"


@contextmanager
def _shown(pieces: int) -> Iterator[Callable[[TrainingProgress], None]]:
    """Shows the progress of training: a bar on a terminal, a line every ten seconds in a log."""
    import tqdm

    terminal = sys.stderr.isatty()
    bar = tqdm.tqdm(unit="B", unit_scale=True, unit_divisor=1000, desc="reading", disable=not terminal)
    last = -LOG_SECONDS  # the first line at once

    def show(state: TrainingProgress) -> None:
        nonlocal last
        share = "" if state.share is None else f" {state.share:.0%},"
        training = f"training {pieces:,} pieces:{share} {state.seconds:.0f} s"
        if terminal:
            if state.phase == "reading":
                bar.total = state.total or None
                bar.update(state.done - bar.n)
            else:
                bar.bar_format = training
                bar.refresh()
        elif time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            of = f" of {_megabytes(state.total)}" if state.total else ""
            reading = f"reading {_megabytes(state.done)}{of}"
            click.echo(training if state.phase == "training" else reading, err=True)

    with bar:
        yield show


vocab.add_command(merge)
vocab.add_command(audit)
vocab.add_command(export)
