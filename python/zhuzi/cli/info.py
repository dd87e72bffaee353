"""`zhuzi model info`: what a folder is, where it comes from, what does not fit together."""

from __future__ import annotations

import json

import click

from zhuzi._show import count
from zhuzi.cli.options import MODEL
from zhuzi.errors import MismatchError


@click.command()
@click.argument("folder", type=MODEL)
@click.option("--verify", is_flag=True, help="Also read all weights, and compare them with the records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Exit with code 1 if anything does not fit together.")
def info(folder: str, verify: bool, as_json: bool, strict: bool) -> None:
    """Say what FOLDER is: a model, an adapter, a training run, a tokenizer or a corpus.

    Its shape, vocabulary, tokenizer and recipe, what it was made from, back to the first base, and what in it
    does not fit together. Reads settings, records and the headers of weights.
    """
    from zhuzi.model.info import lines, model_info

    found = model_info(folder, verify=verify)
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2, default=str))
    else:
        for line in lines(found):
            click.echo(line)
    if strict and found.problems:
        raise MismatchError(f"{found.path}: {count(len(found.problems), 'thing')} that do not fit together")
