"""`zhuzi model`: extend a model to a larger vocabulary, merge an adapter into it, export it, convert it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from zhuzi.cli import options
from zhuzi.cli.model_export import export
from zhuzi.cli.options import MODEL, PATH, say
from zhuzi.model.initial import INITS, Init


def _rope(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from zhuzi.model.positions import Rope

    try:
        return None if value is None else str(Rope.parse(value))
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("rope: ")) from None


@click.group(cls=options.Road)
def model() -> None:
    """Extend a model's vocabulary, merge an adapter into a model, export or convert it."""


@model.command("extend")
@click.option("--model", "base", type=MODEL, required=True, help="Model folder, or hub id.")
@click.option(
    "--tokenizer",
    type=PATH,
    default=None,
    help="Folder of the larger tokenizer. [default: the model's own, with --rope]",
)
@click.option(
    "--rope",
    metavar="KIND:FACTOR",
    callback=_rope,
    default=None,
    help="More positions by scaled RoPE: linear, dynamic, yarn or llama3, and the factor, as in linear:4.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16"]),
    default=None,
    help="Type to which an fp32 base is rounded. [default: bfloat16; a 16-bit base keeps its type]",
)
@click.option(
    "--pad-to-multiple",
    type=click.IntRange(min=1),
    default=None,
    help="Add padding rows up to a multiple of this number, such as 64.",
)
@click.option(
    "--init",
    type=click.Choice(INITS),
    default="subword-mean",
    show_default=True,
    help="How new rows start: the mean of the old rows of the piece's tokens, the mean of all old rows, a "
    "draw from the normal distribution with their mean and covariance, or zero.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws of --init normal.")
@options.out
@options.overwrite
def extend(
    base: str,
    tokenizer: Path | None,
    rope: str | None,
    dtype: Literal["bfloat16", "float16"] | None,
    pad_to_multiple: int | None,
    init: Init,
    seed: int,
    out: Path,
    overwrite: bool,
) -> None:
    """Append rows for the new ids to the embedding and the LM head.

    Old rows stay bit-identical. By default a new row is the mean of the old rows of the piece's tokens under
    the old tokenizer, without the dummy prefix. With --rope the model gets more positions, with or without
    new rows.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.model import extend_model

    if tokenizer is None and rope is None:
        raise click.UsageError("Missing option '--tokenizer', or '--rope'.")
    with reporter() as progress:
        made = extend_model(
            *(base, tokenizer, out),
            dtype=dtype,
            pad_to_multiple=pad_to_multiple,
            init=init,
            seed=seed,
            rope=rope,
            overwrite=overwrite,
            progress=progress.update,
        )
    for token, (before, after) in made.moved.items():
        moved = "{token!r} moved from id {before} to {after}, and its rows with it"
        say(moved, token=token, before=before, after=after)
    for token, parts in made.no_row.items():
        no_row = "{token!r} had no row in the base; it starts as the mean of the rows of {parts}"
        if init != "subword-mean":
            no_row = "{token!r} had no row in the base; it starts as a new token does"
        say(no_row, token=token, parts=", ".join(map(repr, parts)))
    for token in made.left_out:
        say("{token!r} is left out: the base has no row for it, the tokenizer no id", token=token)
    padded = f" ({made.ids:,} ids, {made.padding:,} rows of padding)" if made.padding else ""
    say(
        "{out}: {old} rows became {new}{padded}, stored in {dtype}",
        out=out,
        old=made.old_rows,
        new=made.new_rows,
        padded=padded,
        dtype=made.dtype,
    )
    if made.rope:
        say(
            "RoPE is scaled ({rope}): {n} positions; train on texts that long",
            rope=made.rope,
            n=made.positions,
        )


@model.command("merge", cls=options.Several)
@click.option(
    "--model",
    "base",
    type=MODEL,
    required=True,
    help="The 16-bit model (folder or hub id) that the adapter was made on.",
)
@click.option(
    "--adapter",
    "adapters",
    type=PATH,
    multiple=True,
    required=True,
    help="Adapter folder, such as RUN/adapter; give several in the order in which they were trained.",
)
@click.option("--unverified", is_flag=True, help="Accept an adapter that does not record its base.")
@options.device
@options.out
@options.overwrite
def merge(
    base: str, adapters: tuple[Path, ...], unverified: bool, device: str | None, out: Path, overwrite: bool
) -> None:
    """Merge LoRA adapters, with their embeddings and heads, into their 16-bit base.

    Refused if an adapter was made on another base, tokenizer or vocabulary size. Several adapters are merged
    one after the other. The model is read one layer at a time, so that its size does not matter. A probe
    compares the result with base plus adapter, on --device.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.model import merge_adapter

    with reporter() as progress:
        made = merge_adapter(
            *(base, adapters, out),
            device=device,
            unverified=unverified,
            overwrite=overwrite,
            progress=progress.update,
        )
    say(
        "{out}: logits differ from base + adapter by {exact:.1e} before rounding, by {saved:.1e} as saved",
        out=out,
        exact=made.difference,
        saved=made.difference_stored,
    )
    if made.grown:
        grown = "{rows} rows, {grown} more than the base's, for the ids of an adapter's own tokenizer"
        say(grown, rows=made.rows, grown=made.grown)
    if not made.verified:
        say("the adapter does not say which base it was made on: only its shapes were checked")


@model.command("convert")
@click.option("--model", "source", type=MODEL, required=True, help="Folder of a model or adapter, or hub id.")
@options.out
@options.overwrite
def convert(source: str, out: Path, overwrite: bool) -> None:
    """Write a model or adapter in torch's pickled files (.bin, .pth) as safetensors, bit for bit.

    No code of such a file is run: one that holds more than tensors is refused. Weights as Meta published them
    (consolidated.00.pth, params.json) also become a model of transformers.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.model import convert_model

    with reporter() as progress:
        made = convert_model(source, out, overwrite=overwrite, progress=progress.update)
    say(
        "{out}: {kind} of {tensors} tensors, {bytes} bytes",
        out=made.out,
        kind=made.kind,
        tensors=made.tensors,
        bytes=made.bytes,
    )


model.add_command(export)
