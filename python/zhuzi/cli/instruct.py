"""`zhuzi instruct`: collect instruction data from a model."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from tqdm import tqdm

from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, PATH
from zhuzi.cli.progress import LOG_SECONDS
from zhuzi.endpoint import KEY_VARIABLES, Endpoint
from zhuzi.instruct.budget import Budget
from zhuzi.instruct.filters import Filters

if TYPE_CHECKING:
    from zhuzi.instruct.collect import Progress


def _settings(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, Any]:
    """A JSON object of the command line."""
    try:
        held = json.loads(value or "{}")
    except ValueError as error:
        raise click.BadParameter(f"no JSON ({error})") from None
    if not isinstance(held, dict):
        raise click.BadParameter('want a JSON object, like {"enable_thinking": false}')
    return held


@click.command()
@click.option("--out", type=OUT_FILE, required=True, help="File to write: Alpaca records (.jsonl).")
@click.option("--endpoint", required=True, help="URL as OpenAI's clients take it: http://127.0.0.1:8000/v1")
@click.option("--model", required=True, help="Name of the model at the endpoint.")
@click.option(
    "--key-env",
    help=f"Environment variable that holds the key. [default: {' or '.join(KEY_VARIABLES)}, if set]",
)
@click.option("--seeds", type=PATH, help="Example records, .json or .jsonl. [default: built in]")
@click.option("--topics", type=PATH, help="Topics, one a line. [default: built in]")
@click.option("--tasks", type=PATH, help="Types of task, one a line. [default: built in]")
@click.option("--records", type=click.IntRange(min=1), help="End when the file has so many records.")
@click.option(
    "--max-calls",
    type=click.IntRange(min=1),
    help="End after so many calls. [default: 100 without any limit]",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="End after so many tokens, prompts included.")
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so much money, by --price-in and --price-out.",
)
@click.option(
    "--price-in", type=click.FloatRange(min=0), default=0.0, help="Price of a million tokens of prompts."
)
@click.option(
    "--price-out", type=click.FloatRange(min=0), default=0.0, help="Price of a million tokens of answers."
)
@click.option(
    "--per-call",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Records a call asks for.",
)
@click.option(
    "--parallel", type=click.IntRange(min=1), default=4, show_default=True, help="Calls in flight at once."
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Requests a minute, at most.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=Endpoint.timeout,
    show_default=True,
    help="Seconds for one answer.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=Endpoint.retries,
    show_default=True,
    help="Tries after the first, on time-outs, 429 and 5xx.",
)
@click.option("--temperature", type=click.FloatRange(min=0), help="Sampling. [default: the endpoint's]")
@click.option("--answer-tokens", type=click.IntRange(min=1), help="Longest answer. [default: the endpoint's]")
@click.option(
    "--extra",
    callback=_settings,
    help="More of the request's body, as JSON: '{\"enable_thinking\": false}'.",
)
@click.option(
    "--min-han",
    type=click.FloatRange(min=0, max=1),
    default=Filters.min_han,
    show_default=True,
    help="Least share of Chinese in an instruction; 0 = any language.",
)
@click.option(
    "--similarity",
    type=click.FloatRange(min=0, max=1),
    default=Filters.similarity,
    show_default=True,
    help="Leave out an instruction whose ROUGE-L with an earlier one is more than this.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the draws.")
@options.overwrite
def instruct(
    out: Path,
    endpoint: str,
    model: str,
    key_env: str | None,
    seeds: Path | None,
    topics: Path | None,
    tasks: Path | None,
    temperature: float | None,
    answer_tokens: int | None,
    extra: dict[str, Any],
    overwrite: bool,
    **given: Any,
) -> None:
    """Collect instruction data from a model at an OpenAI-compatible endpoint, for `zhuzi sft`.

    Each call shows examples and asks for 20 records, each of a type of task and a topic drawn at random, as
    published for Chinese Alpaca. Records are filtered (length, language, refusals) and none is kept twice.
    Interrupted or killed, the same command goes on; with a higher limit and --overwrite it adds to the file.
    The key is taken from the environment and written nowhere.
    """
    from zhuzi.instruct.collect import collect_instructions

    chosen = {"temperature": temperature, "max_tokens": answer_tokens}
    settings = {**{key: value for key, value in chosen.items() if value is not None}, **extra}
    place = Endpoint(
        endpoint, model, key_env, given["timeout"], given["retries"], rate=given["rate"], settings=settings
    )
    limits = {field.name: given[field.name] for field in dataclasses.fields(Budget)}
    shown = _Shown(given["records"], given["max_calls"])
    try:
        made = collect_instructions(
            out,
            place,
            seeds=seeds,
            topics=topics,
            tasks=tasks,
            budget=Budget(**limits),
            filters=Filters(min_han=given["min_han"], similarity=given["similarity"]),
            per_call=given["per_call"],
            parallel=given["parallel"],
            seed=given["seed"],
            overwrite=overwrite,
            progress=shown,
        )
    except BaseException as error:
        shown.close()
        for note in getattr(error, "__notes__", []):
            click.echo(f"{out}: {note}", err=True)
        raise
    shown.close()
    click.echo(made.text())


class _Shown:
    """The progress: a bar on a terminal, else a line every few seconds."""

    def __init__(self, records: int | None, calls: int | None) -> None:
        self._records = records
        self._calls = calls if calls is not None or records is not None else None
        self._bar: tqdm[NoReturn] | None = None
        self._shown = time.monotonic()

    def __call__(self, state: Progress) -> None:
        """Show a state."""
        facts = [count(state.records, "record"), count(state.tokens, "token")]
        if state.cost:
            facts.append(f"cost {state.cost:.4g}")
        if state.retried:
            facts.append(f"tried again {state.retried:,}")
        done, total, unit = state.calls, self._calls, " calls"
        if self._records is not None:
            done, total, unit = state.records, self._records, " records"
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, unit=unit)
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown >= LOG_SECONDS:
            self._shown = time.monotonic()
            click.echo(
                ", ".join([count(state.calls, "call"), *facts, f"{state.in_flight} in flight"]), err=True
            )

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
