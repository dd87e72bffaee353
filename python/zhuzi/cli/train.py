"""`zhuzi pretrain` and `zhuzi sft`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhuzi._process import is_main
from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import PATH, say

if TYPE_CHECKING:
    from zhuzi.train.run import TrainReport


@click.command()
@click.argument("recipe", type=PATH)
@options.overwrite
def pretrain(recipe: Path, overwrite: bool) -> None:
    """Pre-train as RECIPE, a YAML file, says.

    Ctrl-C or SIGTERM ends a run after its current step, with a checkpoint and exit code 75. The same command
    resumes from the last checkpoint.
    """
    from zhuzi.train import pretrain

    _say(pretrain(recipe, overwrite=overwrite))


@click.command()
@click.argument("recipe", type=PATH)
@options.overwrite
def sft(recipe: Path, overwrite: bool) -> None:
    """Tune on instructions as RECIPE, a YAML file, says.

    Ctrl-C or SIGTERM ends a run after its current step, with a checkpoint and exit code 75. The same command
    resumes from the last checkpoint.
    """
    from zhuzi.train import sft

    _say(sft(recipe, overwrite=overwrite))


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
