"""`run_demo`: the whole road on a small sample, gone on with where a killed one stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi._show import Report
from zhuzi.demo import settings
from zhuzi.demo.sample import Sample
from zhuzi.demo.state import State, open_state, require_usable


@dataclass(frozen=True, repr=False)
class DemoResult(Report):
    """What `run_demo` made."""

    report: Path
    model: Path
    """The tuned model, for `zhuzi chat`."""
    facts: dict[str, Any]
    """Every figure of the report (also in `demo.json`)."""

    def _headline(self) -> str:
        measured = self.facts["measured"]
        first, last = (entry["bits_per_byte"]["zh"] for entry in (measured[0], measured[-1]))
        return f"{str(self.report)!r}, Chinese {first:.3f} to {last:.3f} bits a byte"

    def _rows(self) -> Iterable[tuple[str, object]]:
        """Bits a byte of each model, held out."""
        return [(entry["name"], entry["bits_per_byte"]) for entry in self.facts["measured"]]


def run_demo(
    out: str | Path = "demo-run",
    *,
    corpus: str | Path | None = None,
    instructions: str | Path | None = None,
    base_tokenizer: str | Path | None = None,
    seed: int = 42,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> DemoResult:
    """Walk the whole road on the built-in sample or the user's files and write OUT/report.html.

    Donor vocabulary, merge, corpus, base model, extension, two stages of pre-training, merge, tuning, merge;
    Chinese and English are measured on text held out from all of it, before and after each stage. A few
    minutes on two cores, in fp32 on a CPU. `say` is told what happens, a line a step.

    Called again after an interruption with the same arguments, it goes on where it stopped and finds the same
    figures, but for the seconds; of a finished demo it returns the result.

    Raises:
        OutputExistsError: `out` holds something else, a demo of other settings or inputs, or one that another
            process is running.
        InputError: fewer than two documents or instructions, or an input that cannot be read.
        Exception: what the steps raise; see their functions.
    """
    out = Path(out)
    own = [path for path in (corpus, instructions, base_tokenizer) if path]
    goes_on = require_usable(out, overwrite=overwrite, inputs=own)
    say(f"{out}: {'looking at what is done there' if goes_on else 'a new demo; some minutes on a CPU'}")
    sample = Sample.read(
        Path(corpus) if corpus else None, Path(instructions) if instructions else None, base_tokenizer
    )
    training = {"length": settings.SEQUENCE_LENGTH, "base": settings.BASE, **settings.STAGES}
    asked = {"seed": seed, **sample.checksums(), "training": training}
    with open_state(out, asked, overwrite=overwrite, inputs=own) as state:
        if state.finished:
            say(f"{out}: this demo is finished; nothing to do (start anew with --overwrite)")
        else:
            _walk(state, sample, seed, say)
        return DemoResult(out / "report.html", out / "chinese-alpaca", state.facts)


def _walk(state: State, sample: Sample, seed: int, say: Callable[[str], object]) -> None:
    """Do the steps that are not done."""
    if state.done:
        say(f"{state.out}: goes on after the step {state.done[-1]!r}")
    # Torch and transformers, several seconds: only now that nothing is left to refuse.
    from zhuzi.demo.steps import STEPS, Road

    road = Road(state.out.absolute(), sample, seed, say)
    numbers = sum(bool(step.title) for step in STEPS)
    told = {
        "documents": len(sample.zh.train),
        "records": len(sample.records),
        "base": settings.BASE,
        "stages": settings.STAGES,
    }
    number = 0
    for step in STEPS:
        number += bool(step.title)
        if step.name in state.done:
            continue
        if step.title:
            say(f"{number}/{numbers}  {step.title.format(**told)}")
        with state.step(step.name, step.makes) as facts:
            outcome = step.work(road, facts)
        if outcome:
            say(f"     {outcome}")
