"""`zhuzi model plan`: what a run will need, before anything is loaded or rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhuzi.cli import options
from zhuzi.cli.options import MODEL, PATH

if TYPE_CHECKING:
    from zhuzi.train.plan import Plan


def _size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A number of bytes: 24GB, 80GiB."""
    from zhuzi.train.plan import bytes_of

    try:
        return None if value is None else bytes_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("recipe", type=PATH)
@options.settings
@click.option(
    "--config",
    type=MODEL,
    default=None,
    help="config.json, model folder, or llama-7b, llama-13b, llama-33b, llama-65b. [default: the recipe's "
    "model]",
)
@click.option("--rows", type=click.IntRange(min=1), default=None, help="Rows of the embedding.")
@click.option("--gpus", type=click.IntRange(min=1), default=None, help="GPUs that share a batch.")
@click.option("--gpu-memory", callback=_size, help="Memory of one GPU, such as 24GB or 80GiB.")
@click.option(
    "--speed",
    type=MODEL,
    default=None,
    help="Tokens a second of all GPUs, or a run's folder, whose log has them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    recipe: Path,
    settings: tuple[str, ...],
    config: str | None,
    rows: int | None,
    gpus: int | None,
    gpu_memory: int | None,
    speed: str | None,
    as_json: bool,
) -> None:
    """Say what RECIPE will need: parameters, memory, steps and hours.

    Reads the settings of the model, no weights, and needs no GPU. With --gpu-memory it says whether the run
    fits, and if not, which settings would make it fit. Without --gpus and --gpu-memory it plans for the GPU
    of this machine, or its CPU.
    """
    from zhuzi.train import load_stages
    from zhuzi.train.plan import plan_stages

    stages = load_stages(recipe, settings)
    plans = plan_stages(
        [stage.recipe for stage in stages],
        config=config,
        rows=rows,
        gpus=gpus,
        gpu_memory=gpu_memory,
        speed=speed,
    )
    if as_json:
        made = [{"stage": stage.name, **plan.as_json()} for stage, plan in zip(stages, plans, strict=True)]
        shown = plans[0].as_json() if len(plans) == 1 else {"stages": made}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    for stage, plan in zip(stages, plans, strict=True):
        show(stage.name, plan)


def show(stage: str, plan: Plan) -> None:
    """Print a plan, under the name of its stage if there are several."""
    if stage:
        click.echo(f"stage {stage}")
    for line in plan.lines():
        click.echo(f"  {line}" if stage else line)
