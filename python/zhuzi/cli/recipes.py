"""`zhuzi recipes`: the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, say


@click.group(cls=options.Road)
def recipes() -> None:
    """List, show and copy the recipes that come with Zhuzi."""


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes, with what each trains."""
    from zhuzi.train.shipped import shipped_recipes

    known = shipped_recipes()
    width = max(map(len, known))
    for recipe in known.values():
        click.echo(f"{recipe.name:<{width}}  {recipe.summary}")


@recipes.command()
@click.argument("name", metavar="NAME")
def show(name: str) -> None:
    """Print the recipe NAME, each line with its comment."""
    from zhuzi.train.shipped import shipped_recipe

    click.echo(shipped_recipe(name).text, nl=False)


@recipes.command()
@click.argument("name", metavar="NAME")
@click.option("--out", type=OUT_FILE, default=None, help="File to write. [default: NAME.yaml]")
@options.overwrite
def copy(name: str, out: Path | None, overwrite: bool) -> None:
    """Write the recipe NAME to a file, to be changed and run."""
    from zhuzi.train.shipped import copy_recipe

    say("{path}: {name}", path=copy_recipe(name, out, overwrite=overwrite), name=name)
