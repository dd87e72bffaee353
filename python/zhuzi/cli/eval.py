"""`zhuzi eval`: what was gained."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NoReturn

import click
from tqdm import tqdm

from zhuzi.cli import options
from zhuzi.cli.options import MODEL, OUT_FILE, PATH, Road
from zhuzi.cli.progress import LOG_SECONDS
from zhuzi.endpoint import KEY_VARIABLES, Endpoint
from zhuzi.errors import EndpointError
from zhuzi.infer.sampling import Sampling


@click.group("eval", cls=Road)
def evaluate() -> None:
    """Measure and compare models."""


@evaluate.command()
@click.option(
    "--model",
    "models",
    type=MODEL,
    multiple=True,
    required=True,
    help="Model folder, or adapter folder of a training run; give several.",
)
@click.option(
    "--prompts",
    type=PATH,
    required=True,
    help="Alpaca records (an output is shown as a reference), or one prompt a line (.txt).",
)
@click.option("--html", "page", type=OUT_FILE, help="Page to write: the answers side by side.")
@click.option(
    "--json", "data", type=OUT_FILE, help="File to write: answers, verdicts, the key of a blind page."
)
@click.option("--blind", is_flag=True, help="Name no model on the page; its key is in the --json file.")
@click.option("--base", type=MODEL, help="Base of the adapters. [default: the one their records name]")
@click.option("--judge", help="URL of an OpenAI-compatible endpoint whose model judges each pair of answers.")
@click.option("--judge-model", help="Name of the model there.")
@click.option(
    "--key-env",
    help=f"Environment variable that holds the judge's key. [default: {' or '.join(KEY_VARIABLES)}, if set]",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Questions to the judge at once.",
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Questions to the judge a minute, at most."
)
@options.sampling
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Decides the draws, and the blind order."
)
@options.device
@options.overwrite
def compare(
    models: tuple[str, ...],
    prompts: Path,
    page: Path | None,
    data: Path | None,
    blind: bool,
    base: str | None,
    judge: str | None,
    judge_model: str | None,
    key_env: str | None,
    parallel: int,
    rate: float | None,
    seed: int,
    device: str | None,
    overwrite: bool,
    **settings: float,
) -> None:
    """Let models answer the same prompts, and show the answers side by side.

    With --judge, a model at an endpoint says of each pair of answers which is better, in both orders: a pair
    is won where both agree.
    """
    from zhuzi.eval.compare import compare_models
    from zhuzi.record.place import require_free_file

    if page is None and data is None:
        raise click.UsageError("name what to write: --html, --json or both")
    if blind and (page is None or data is None):
        raise click.UsageError("--blind wants the page (--html) and a file for its key (--json)")
    if (judge is None) != (judge_model is None):
        raise click.UsageError("a judge is named by --judge and --judge-model")
    for out in (page, data):
        if out is not None:
            require_free_file(out, overwrite=overwrite, inputs=[prompts, *map(Path, models)])
    if page is not None:
        import zhuzi.pages  # noqa: F401  # a missing extra is noticed before the work
    shown = _Shown()
    try:
        made = compare_models(
            models,
            prompts,
            base=base,
            sampling=Sampling(**settings),  # type: ignore[arg-type]
            device=device,
            seed=seed,
            judged_by=Endpoint(judge, judge_model or "", key_env, rate=rate) if judge is not None else None,
            parallel=parallel,
            progress=shown,
        )
    finally:
        shown.close()
    if data is not None:
        made.write_json(data, overwrite=overwrite)
    if page is not None:
        command = ["zhuzi", *sys.argv[1:]]
        made.write_html(page, blind=blind, key=data, command=command, overwrite=overwrite)
    click.echo(f"{page or data}: {made!r}")
    if made.judged_by is not None:
        for score in made.scores:
            click.echo(f"{score.model}: {score.wins:,} won, {score.ties:,} tied, {score.losses:,} lost")
        click.echo(
            f"decided by the order: {made.depending_on_order:,}; without a verdict: {made.without_verdict:,}"
        )
    if made.judging_failed is not None:
        raise EndpointError(made.judging_failed)


class _Shown:
    """The progress: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._what = ""
        self._shown = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show so many of so many."""
        if sys.stderr.isatty():
            if self._bar is None or what != self._what:
                self.close()
                self._bar = tqdm(total=total, desc=what)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown >= LOG_SECONDS:
            self._shown = time.monotonic()
            click.echo(f"{what}: {done:,} of {total:,}", err=True)
        self._what = what

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
