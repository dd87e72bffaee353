"""`zhuzi eval`: what was gained."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from tqdm import tqdm

from zhuzi._process import is_main
from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import MODEL, OUT_FILE, PATH, Road
from zhuzi.cli.progress import LOG_SECONDS
from zhuzi.endpoint import KEY_VARIABLES, Endpoint
from zhuzi.errors import EndpointError
from zhuzi.infer.sampling import Sampling

if TYPE_CHECKING:
    from zhuzi.eval import ExamResult
    from zhuzi.eval.exam_files import ExamName


@click.group("eval", cls=Road)
def evaluate() -> None:
    """Measure and compare models."""


@evaluate.command(cls=options.Several)
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
    with closing(_Shown("answer")) as shown:
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
    if data is not None:
        made.write_json(data, overwrite=overwrite)
    if page is not None:
        command = ["zhuzi", *sys.argv[1:]]
        made.write_html(page, blind=blind, key=data, command=command, overwrite=overwrite)
    answered = f"{count(len(made.prompts), 'prompt')} answered by {count(len(made.models), 'model')}"
    judged = "" if made.judged_by is None else f", judged by {made.judged_by}"
    click.echo(f"{page or data}: {answered}{judged}")
    if made.judged_by is not None:
        for score in made.scores:
            click.echo(f"{score.model}: {score.wins:,} won, {score.ties:,} tied, {score.losses:,} lost")
        click.echo(
            f"decided by the order: {made.depending_on_order:,}; without a verdict: {made.without_verdict:,}"
        )
    if made.judging_failed is not None:
        raise EndpointError(made.judging_failed)


_batch = click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Texts in one forward."
)
_base = click.option(
    "--base", type=MODEL, help="Base of an adapter. [default: the one that its record names]"
)
_json = click.option(
    "--json", "out", type=OUT_FILE, help="File to write. Results so far are beside it: a run resumes."
)


@evaluate.command(cls=options.Several)
@click.option(
    "--model",
    "models",
    type=MODEL,
    multiple=True,
    required=True,
    help="Model folder, GGUF file, or adapter folder of a training run; give several.",
)
@click.option(
    "--corpus",
    "corpora",
    type=PATH,
    multiple=True,
    required=True,
    help="Text: whatever `corpus encode` reads; give several, such as Chinese and English. Each is a source.",
)
@click.option(
    "--context",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens that the model sees at once, at most.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Tokens by which a window moves on. [default: windows do not overlap]",
)
@click.option("--max-documents", type=click.IntRange(min=1), help="Measure the first so many of each source.")
@_base
@_batch
@_json
@click.option("--html", "page", type=OUT_FILE, help="Page to write, with a picture.")
@options.fields
@options.split
@options.separator
@options.stdin_format
@options.bits
@options.device
@options.overwrite
def bits(
    models: tuple[str, ...],
    corpora: tuple[Path, ...],
    out: Path | None,
    page: Path | None,
    split: str | None,
    separator: str | None,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Measure bits per byte and per character of models on texts.

    Smaller is better, and unlike perplexity it can be compared across vocabularies. English beside Chinese
    shows what was forgotten. `torchrun` divides the documents among processes.
    """
    from zhuzi.eval import compare_bits
    from zhuzi.record.place import require_free_file

    if page is not None:
        require_free_file(page, overwrite=overwrite, inputs=[*map(Path, models), *corpora])
        import zhuzi.pages  # noqa: F401  # a missing extra is noticed before the work
    settings["split"] = split or ("line" if separator is None else "separator")
    with closing(_Shown("byte")) as shown:
        made = compare_bits(
            models, corpora, out=out, separator=separator, overwrite=overwrite, progress=shown, **settings
        )
    if not is_main():
        return
    if page is not None:
        made.write_html(page, command=["zhuzi", *sys.argv[1:]], overwrite=overwrite)
    for model, row in zip(made.models, made.measured, strict=True):
        for source, found in zip(made.sources, row, strict=True):
            click.echo(
                f"{model}, {source}: {found.per_byte:.4f} bits per byte, "
                f"{found.per_character:.4f} per character "
                f"({count(found.tokens, 'token')} of {count(found.bytes, 'byte')})"
            )


def _exam(name: ExamName, title: str, default: str) -> click.Command:
    """The command of a benchmark."""

    @click.option("--model", type=MODEL, required=True, help="Model folder, or adapter folder.")
    @click.option(
        "--data", type=PATH, required=True, help="The benchmark's zip file, or the folder that it unpacks to."
    )
    @click.option(
        "--split",
        type=click.Choice(["dev", "val", "test"]),
        default=default,
        show_default=True,
        help="Which questions.",
    )
    @click.option(
        "--shots", type=click.IntRange(0, 5), default=0, show_default=True, help="Examples before a question."
    )
    @click.option(
        "--by",
        type=click.Choice(["likelihood", "generation"]),
        default="likelihood",
        show_default=True,
        help="Compare the likelihoods of the letters, or extract the answer from what the model writes.",
    )
    @click.option("--subject", "subjects", multiple=True, help="Only this subject; may be repeated.")
    @click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Draws the choice where what was generated names none.",
    )
    @_base
    @_batch
    @_json
    @click.option(
        "--submission", type=OUT_FILE, help="File to write: the choices, as the benchmark takes them."
    )
    @options.device
    @options.overwrite
    def command(
        model: str, data: Path, submission: Path | None, out: Path | None, overwrite: bool, **settings: Any
    ) -> None:
        from zhuzi.eval import evaluate_exam
        from zhuzi.record.place import require_free_file

        if submission is not None:
            require_free_file(submission, overwrite=overwrite, inputs=[data])
        with closing(_Shown("question")) as shown:
            made = evaluate_exam(name, model, data, out=out, overwrite=overwrite, progress=shown, **settings)
        if submission is not None:
            made.write_submission(submission, overwrite=overwrite)
        _say_exam(made)

    command.__doc__ = f"""Let a model answer {title}: questions with four choices, by subject and category.

    Likelihoods are compared as lm-evaluation-harness does; answers are generated with the prompt and the
    rules of Chinese-LLaMA-Alpaca.
    """
    return evaluate.command(name)(command)


def _say_exam(made: ExamResult) -> None:
    """The figures of a benchmark: by subject, by category, in all."""
    known = made.accuracy is not None
    for subject in made.subjects if known else ():
        click.echo(f"{subject.name:<45} {subject.accuracy:>7.2%} of {len(subject.answers)}  {subject.title}")
    for category, accuracy in made.categories.items() if known else ():
        click.echo(f"{category:<45} {accuracy:>7.2%}")
    if known:
        click.echo(
            f"{made.exam}, {made.model}: {made.accuracy:.2%} of {count(made.questions, 'question')}, "
            f"{made.average:.2%} as the mean of {count(len(made.subjects), 'subject')}"
        )
    else:
        click.echo(
            f"{made.exam}, {made.model}: {count(made.questions, 'question')} answered; the right answers are "
            "not public"
        )
    if made.cut:
        click.echo(
            f"{count(made.cut, 'prompt')} longer than the model's positions: their beginning was left out"
        )
    if made.not_extracted:
        click.echo(f"{count(made.not_extracted, 'answer')} named no choice: one was drawn")


_exam("ceval", "C-Eval", "val")
_exam("cmmlu", "CMMLU", "test")


class _Shown:
    """The progress: a bar on a terminal, else a line every few seconds."""

    def __init__(self, noun: str) -> None:
        """`noun` is what is counted."""
        self._bar: tqdm[NoReturn] | None = None
        self._noun = noun
        self._what = self._line = ""
        self._shown = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show so many of so many."""
        if sys.stderr.isatty():
            if self._bar is None or what != self._what:
                self.close()
                unit = "B" if self._noun == "byte" else self._noun
                self._bar = tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B")
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown >= LOG_SECONDS:
            self._shown = time.monotonic()
            line = f"{what}: {done:,} of {count(total, self._noun)}"
            if line != self._line:  # all bytes are read before the last documents are measured
                click.echo(line, err=True)
            self._line = line
        self._what = what

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
