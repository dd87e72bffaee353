"""`zhuzi corpus`: text files to training shards."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from zhuzi.cli import options
from zhuzi.cli.options import PATH, say


@click.group()
def corpus() -> None:
    """Encode text into training shards."""


@corpus.command("encode")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--tokenizer", type=PATH, required=True, help="Tokenizer or model folder.")
@click.option("--no-eos", is_flag=True, help="Leave out the end-of-sequence id behind each document.")
@click.option(
    "--shard-bytes",
    type=click.IntRange(min=1),
    default=512 << 20,
    show_default=True,
    help="Input bytes after which a new shard starts.",
)
@options.field
@options.threads
@options.out
@options.overwrite
def encode(
    inputs: tuple[Path, ...],
    tokenizer: Path,
    no_eos: bool,
    shard_bytes: int,
    field: str,
    threads: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Encode INPUTS into Megatron shards (OUT/*.bin + *.idx) and a manifest.

    INPUTS are .jsonl files (a JSON object a line), .txt files (a document a line), folders of them, or quoted
    patterns; order and bytes of the output do not depend on the number of threads.
    """
    from tqdm import tqdm

    from zhuzi.corpus import encode_corpus

    started = time.monotonic()
    with tqdm(unit="B", unit_scale=True, unit_divisor=1000, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int, documents: int, tokens: int) -> None:
            bar.total = total
            bar.set_postfix_str(f"{documents:,} documents, {tokens:,} tokens", refresh=False)
            bar.update(done - bar.n)

        made = encode_corpus(
            inputs,
            tokenizer,
            out,
            field=field,
            eos=not no_eos,
            num_threads=threads,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            progress=progress,
        )
    seconds = max(time.monotonic() - started, 1e-9)
    say(
        "{folder}: {documents} documents, {tokens} tokens in {shards} shards ({speed:.1f} MB/s of text, "
        "{ratio:.2f} characters a token)",
        folder=made.folder,
        documents=made.documents,
        tokens=made.tokens,
        shards=made.shards,
        speed=made.text_bytes / 1e6 / seconds,
        ratio=made.characters / made.tokens,
    )
    if made.empty_documents:
        say("{n} documents without characters were left out", n=made.empty_documents)
