"""`zhuzi vocab merge`: the pieces of donors appended to a base's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi._show import count, some
from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, PATH, say

if TYPE_CHECKING:
    from zhuzi.vocab import MergedVocab


@click.command("merge")
@click.option("--base", type=PATH, required=True, help="The base: its folder, or its tokenizer.model (BPE).")
@click.option(
    "--donor",
    "donors",
    type=PATH,
    required=True,
    multiple=True,
    help="SentencePiece model (or folder) whose pieces are added; may be repeated.",
)
@click.option(
    "--policy",
    default="paper",
    show_default=True,
    type=click.Choice(["paper", "ordered"]),
    help="Scores of the new pieces: 0 as published, or above the base's and strictly decreasing, which gives "
    "the same ids in every engine.",
)
@click.option(
    "--scripts",
    default="all",
    show_default=True,
    type=click.Choice(["han", "all"]),
    help="han: only pieces with Han (and nothing but Chinese punctuation beside), so that a text without Han "
    "keeps its ids.",
)
@click.option(
    "--no-ascii", "ascii", is_flag=True, flag_value=False, default=True, help="No pieces of ASCII alone."
)
@click.option(
    "--no-digits",
    "digits",
    is_flag=True,
    flag_value=False,
    default=True,
    help="No pieces that join a digit to another character.",
)
@click.option("--max-length", type=click.IntRange(min=1), help="Characters of a new piece, at most.")
@click.option("--top", type=click.IntRange(min=1), help="New pieces, at most: the first in order.")
@click.option(
    "--repair",
    is_flag=True,
    help="Make every new piece reachable and leave every old one so: pieces that no text would become get "
    "what they lack to be made of, or are left out.",
)
@click.option(
    "--corpus",
    "inputs",
    type=PATH,
    multiple=True,
    help="Text on which the use of the pieces is counted: the most used come first. A file or folder as of "
    "`zhuzi corpus encode`; may be repeated.",
)
@options.fields
@options.split
@options.separator
@options.stdin_format
@options.on_error
@click.option(
    "--added-tokens",
    type=click.Choice(["move", "keep"]),
    default="move",
    show_default=True,
    help="Added tokens of a base folder move behind the new pieces, or those with a row keep their ids.",
)
@click.option(
    "--add-token",
    "add_tokens",
    multiple=True,
    help='Added token, with the next id, such as "[PAD]"; may be repeated.',
)
@options.out
@click.option(
    "--report", type=OUT_FILE, help="JSON file to write: each piece that came in or did not, and why."
)
@options.threads
@options.overwrite
def merge(
    base: Path,
    donors: tuple[Path, ...],
    inputs: tuple[Path, ...],
    out: Path,
    report: Path | None,
    threads: int | None,
    **settings: Any,
) -> None:
    """Append the donors' pieces to the base's vocabulary and write a tokenizer folder.

    The base's pieces keep their ids. Policy paper appends every piece that the base lacks, in the donor's
    order, with score 0 (LLaMA and the published donor give 49,953 ids; 49,954 with [PAD]). Added tokens of a
    base folder come next, then those of --add-token; model extend moves their rows with them.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.corpus.read import read_texts
    from zhuzi.vocab import merge_vocab

    reading = {
        name: settings.pop(name) for name in ("field", "split", "separator", "stdin_format", "on_error")
    }
    if reading["split"] is None:
        reading["split"] = "line" if reading["separator"] is None else "separator"
    corpus = read_texts(inputs, **reading) if inputs else None
    with reporter() as progress:
        made = merge_vocab(
            base,
            donors,
            out,
            corpus=corpus,
            report=report,
            num_threads=threads,
            progress=progress.update,
            **settings,
        )
    for line in summary(made):
        say("{line}", line=line)
    if report is not None:
        say("{path}: every piece, and why", path=str(report))


def summary(made: MergedVocab) -> list[str]:
    """What was written, and what was moved, already present, left out or kept as another kind."""
    added = made.vocab_size - made.base_size - made.appended - len(made.kept)
    whose = "donor's" if len(made.donors) == 1 else "donors'"
    lines = [
        f"{made.folder}: {made.vocab_size:,} ids = {made.base_size:,} of the base + {made.appended:,} "
        f"appended + {count(added + len(made.kept), 'added token')} "
        f"({made.shared:,} of the {whose} pieces were in the base)"
    ]
    if len(made.donors) > 1:
        lines += [f"{donor.path}: {donor.appended:,} of {donor.pieces:,} pieces" for donor in made.donors]
    if made.kept:
        kept = [f"{token} {id}" for token, id in made.kept.items()]
        lines.append(f"added tokens of the base that keep their ids: {some(kept)}")
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
    for names, what in [
        (made.left_out_pieces, "of the donor left out (control, unknown or byte: without text of their own)"),
        (made.user_defined, "of the donor appended as user-defined, as in the donor"),
        (made.kept_as_in_base, "user-defined in the donor, of another kind in the base: kept as in the base"),
    ]:
        if names:
            lines.append(f"{count(len(names), 'piece')} {what}: {some(names)}")
    return [*lines, *_choice(made), *made.notes]


def _choice(made: MergedVocab) -> list[str]:
    """Which pieces the options kept out, and which no text becomes."""
    from zhuzi.vocab.merged import REASONS

    lines = []
    if made.counted_bytes is not None:
        unused = sum(piece.uses == 0 for piece in made.new_pieces)
        lines.append(
            f"ordered by their use in {made.counted_bytes / 1e6:,.1f} MB of text; "
            f"{count(unused, 'new piece')} never used there"
        )
    for reason, why in REASONS.items():
        pieces = made.without(reason)
        if not pieces or reason in ("in_base", "no_text"):
            continue
        names = [f"{piece.piece} ({piece.about})" if piece.about else piece.piece for piece in pieces]
        lines.append(f"{count(len(pieces), 'piece')} left out, {why}: {some(names)}")
    if made.inner:
        lines.append(f"{count(len(made.inner), 'piece')} added for others to be made of: {some(made.inner)}")
    if made.dead:
        lines.append(f"{count(len(made.dead), 'new piece')} that no text becomes: {some(made.dead)}")
    if made.killed:
        lines.append(
            f"{count(len(made.killed), 'piece')} of the base that no text becomes any more: "
            f"{some(made.killed)}"
        )
    if made.dead or made.killed:
        lines.append("--repair leaves none of these")
    return lines
