"""`zhuzi pretrain` and `zhuzi sft`: run a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhuzi._process import is_main
from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import PATH, say
from zhuzi.cli.plan import show
from zhuzi.cli.preview import show_records

if TYPE_CHECKING:
    from zhuzi.train.recipe import AnyRecipe
    from zhuzi.train.run import TrainReport


_dry_run = click.option(
    "--dry-run", is_flag=True, help="Check the run, print its recipe with all keys and its plan, and end."
)


@click.command()
@click.argument("recipe", type=PATH)
@options.settings
@_dry_run
@options.overwrite
def pretrain(recipe: Path, settings: tuple[str, ...], dry_run: bool, overwrite: bool) -> None:
    """Pre-train as RECIPE, a YAML file, says.

    Ctrl-C or SIGTERM ends a run after its current step, with a checkpoint and exit code 75. The same command
    resumes from the last checkpoint.
    """
    from zhuzi.train import pretrain

    if dry_run:
        from zhuzi.train.pretraining import prepare
        from zhuzi.train.recipe import PretrainRecipe

        _rehearse(recipe, settings, PretrainRecipe, prepare, overwrite=overwrite)
        return
    _say(pretrain(recipe, settings=settings, overwrite=overwrite))


def _mapped(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    for pair in given:
        if not all(pair.partition("=")):
            raise click.BadParameter(f"{pair}: want FIELD=NAME, as in instruction=prompt")
    return tuple(
        f"map.{field}={json.dumps(name)}" for field, _, name in (pair.partition("=") for pair in given)
    )


@click.command()
@click.argument("recipe", type=PATH)
@options.settings
@click.option(
    "--map",
    "fields",
    multiple=True,
    metavar="FIELD=NAME",
    callback=_mapped,
    help="What the records call a field, as in `--map instruction=prompt --map output=response`; over the "
    "recipe's `map`.",
)
@click.option(
    "--preview",
    "shown",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print the first N records as the model will see them, what is learned in colour, and end.",
)
@_dry_run
@options.overwrite
def sft(
    recipe: Path,
    settings: tuple[str, ...],
    fields: tuple[str, ...],
    shown: int | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Tune on instructions as RECIPE, a YAML file, says.

    Ctrl-C or SIGTERM ends a run after its current step, with a checkpoint and exit code 75. The same command
    resumes from the last checkpoint.
    """
    from zhuzi.train import sft

    settings += fields
    if shown is not None:
        show_records(recipe, shown, settings)
        return
    if dry_run:
        from zhuzi.train.recipe import SftRecipe
        from zhuzi.train.tuning import prepare

        _rehearse(recipe, settings, SftRecipe, prepare, overwrite=overwrite)
        return
    _say(sft(recipe, settings=settings, overwrite=overwrite))


def _rehearse(
    path: Path,
    settings: tuple[str, ...],
    kind: type[AnyRecipe],
    prepare: Callable[..., object],
    *,
    overwrite: bool,
) -> None:
    """Do what is done before anything is loaded, and show the recipe and its plan."""
    from zhuzi.train.plan import plan_stages
    from zhuzi.train.recipe_file import as_yaml
    from zhuzi.train.stages import resolve_stages

    stages = resolve_stages(path, kind, settings)
    prepare(stages[0].recipe, overwrite=overwrite, source=path)
    plans = plan_stages([stage.recipe for stage in stages])
    for stage, plan in zip(stages, plans, strict=True):
        click.echo(as_yaml(stage.recipe))
        show(stage.name, plan)


def _say(report: TrainReport) -> None:
    if not is_main():
        return
    from zhuzi.train.measures import changes

    say(
        "{result}: {steps}, loss {first:.3f} to {last:.3f}, {trainable} of {parameters} parameters "
        "trained ({share:.2%})",
        result=report.result,
        steps=count(report.steps, "step"),
        first=report.losses[0][1],
        last=report.losses[-1][1],
        trainable=report.trainable,
        parameters=report.parameters,
        share=report.share,
    )
    for name, start, now in changes(report.evaluations):
        what = "loss of what is held out" if name == "loss" else f"{name}, bits per byte"
        moved = (
            f"{now:.4f}" if start is None else f"{start:.4f} at the start, {now:.4f} now ({now - start:+.4f})"
        )
        say("{what}: {moved}", what=what, moved=moved)
