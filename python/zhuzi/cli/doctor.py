"""`zhuzi doctor`: whether this machine can do what the commands need."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zhuzi.cli.options import PATH


@click.command()
@click.argument("place", type=PATH, default=Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(place: Path, as_json: bool) -> None:
    """Say what this machine has, what will not work on it, and why.

    Versions of the libraries, GPUs, kernels, free memory, and the free disk at PLACE (by default the current
    folder), where outputs are to be written.
    """
    from zhuzi.doctor import examine

    found = examine(place)
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
        return
    for line in found.lines():
        click.echo(line)
