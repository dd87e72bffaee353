"""`zhuzi vocab`: train a donor vocabulary, merge it into a base."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, PATH, say


@click.group(cls=options.Road)
def vocab() -> None:
    """Train a Chinese vocabulary and merge it into a base model's."""


@vocab.command("train")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=OUT_FILE, required=True, help="Model file to write, such as donor.model.")
@click.option("--vocab-size", default=20_000, show_default=True, type=click.IntRange(min=4), help="Pieces.")
@click.option(
    "--type", "model_type", default="unigram", show_default=True, type=click.Choice(["unigram", "bpe"])
)
@click.option(
    "--character-coverage",
    default=0.9995,
    show_default=True,
    type=click.FloatRange(min=0.98, max=1),
    help="Share of the text's characters that become pieces.",
)
@options.field
@options.threads
@options.overwrite
def train(
    inputs: tuple[Path, ...],
    out: Path,
    vocab_size: int,
    model_type: Literal["unigram", "bpe"],
    character_coverage: float,
    field: str,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Train a donor vocabulary on INPUTS: .txt (a document a line) or .jsonl files.

    The published donor has 20,000 unigram pieces.
    """
    from zhuzi.vocab import train_vocab

    made = train_vocab(
        inputs,
        out,
        vocab_size=vocab_size,
        model_type=model_type,
        field=field,
        character_coverage=character_coverage,
        num_threads=threads,
        overwrite=overwrite,
    )
    say(
        "{path}: {pieces} pieces from {documents} documents of {characters} characters",
        path=made.path,
        pieces=made.pieces,
        documents=made.documents,
        characters=made.characters,
    )


@vocab.command("merge")
@click.option("--base", type=PATH, required=True, help="SentencePiece model of the base (BPE).")
@click.option("--donor", type=PATH, required=True, help="SentencePiece model whose pieces are added.")
@click.option("--policy", default="paper", show_default=True, type=click.Choice(["paper"]))
@click.option(
    "--add-token",
    "add_tokens",
    multiple=True,
    help='Token beside the model with the next id, such as "[PAD]"; may be repeated.',
)
@options.out
@options.overwrite
def merge(
    base: Path, donor: Path, policy: str, add_tokens: tuple[str, ...], out: Path, overwrite: bool
) -> None:
    """Append the donor's pieces to the base's vocabulary and write a tokenizer folder.

    The base's ids keep their meaning. Policy paper: every piece the base lacks, in the donor's order, with
    score 0 (LLaMA and the published donor give 49,953 ids; 49,954 with [PAD]).
    """
    from zhuzi.vocab import merge_vocab

    made = merge_vocab(base, donor, out, policy=policy, add_tokens=add_tokens, overwrite=overwrite)
    say(
        "{folder}: {vocab_size} ids = {base_size} of the base + {appended} appended + {added} added tokens "
        "({shared} pieces of the donor were in the base)",
        folder=made.folder,
        vocab_size=made.vocab_size,
        base_size=made.base_size,
        appended=made.appended,
        added=len(add_tokens),
        shared=made.shared,
    )
    if made.left_out:
        say("{n} control, unknown or byte pieces of the donor stand for no text: left out", n=made.left_out)
