"""`run_demo`: the whole road on a small sample, resumed if it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi._show import Report
from zhuzi.demo import settings
from zhuzi.demo.sample import Sample
from zhuzi.demo.state import State, open_state, require_usable

_SEED = 42


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
        return f"{str(self.report)!r}, Chinese {first:.3f} to {last:.3f} bits per byte"

    def _rows(self) -> Iterable[tuple[str, object]]:
        """Bits per byte of each model on held-out text."""
        return [(entry["name"], entry["bits_per_byte"]) for entry in self.facts["measured"]]


def run_demo(
    out: str | Path = "demo-run",
    *,
    corpus: str | Path | None = None,
    instructions: str | Path | None = None,
    base_tokenizer: str | Path | None = None,
    seed: int = _SEED,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> DemoResult:
    """Walk the whole road on the built-in sample or the user's files and write OUT/report.html.

    Vocabulary, corpus, base model, extension, two stages of pre-training, merge, tuning, merge.
    Chinese and English are measured on held-out text before and after each stage. It takes a few minutes on
    two cores, in fp32 on a CPU. `say` is called with a line for each step, and for each kind of input that
    the demo leaves out.

    Called again with the same arguments (but without `overwrite`), an interrupted demo resumes and gives the
    same figures, except for the seconds; a finished one returns its result.

    Raises:
        OutputExistsError: `out` contains something else, a demo with other settings or inputs, or one that
            another process is running.
        InputError: fewer than two documents or instructions, or an input that cannot be read.
        Exception: whatever the steps raise; see their functions.
        KeyboardInterrupt: with a note on how to resume, if there is something to resume.
    """
    out = Path(out)
    own = [path for path in (corpus, instructions, base_tokenizer) if path]
    known = require_usable(out, overwrite=overwrite, inputs=own)
    say(f"{out}: {'checking which steps are done' if known else 'a new demo; a few minutes on a CPU'}")
    sample = Sample.read(
        Path(corpus) if corpus else None, Path(instructions) if instructions else None, base_tokenizer
    )
    training = {"length": settings.SEQUENCE_LENGTH, "base": settings.BASE, **settings.STAGES}
    training["new_ids"] = settings.NEW_IDS
    options = {"corpus": corpus, "instructions": instructions, "base-tokenizer": base_tokenizer}
    command = ["zhuzi", "demo", "--out", str(out)]
    command += [word for name, path in options.items() if path for word in (f"--{name}", str(path))]
    command += ["--seed", str(seed)] if seed != _SEED else []
    asked = {"seed": seed, **sample.checksums(), "training": training}
    with open_state(out, asked, overwrite=overwrite, inputs=own) as state:
        if state.finished:
            say(f"{out}: this demo is finished; nothing to do (start again with --overwrite)")
        else:
            try:
                _walk(state, sample, seed, say, command)
            except KeyboardInterrupt as stop:
                again = "the same command without --overwrite" if overwrite else "the same command again"
                stop.add_note(f"{out}: interrupted; run {again} to resume")
                raise
        return DemoResult(out / "report.html", out / "chinese-alpaca", state.facts)


def _walk(state: State, sample: Sample, seed: int, say: Callable[[str], object], command: list[str]) -> None:
    """Do the remaining steps."""
    if state.done:
        say(f"{state.out}: resumes after the step {state.done[-1]!r}")
    state.facts["notes"] = sample.notes
    for note in sample.notes:
        say(note)
    # torch and transformers take seconds to load: only now that all checks have passed.
    from zhuzi.demo.steps import STEPS, Road

    road = Road(state.out.absolute(), sample, seed, say, command)
    numbers = sum(bool(step.title) for step in STEPS)
    told = {
        "documents": len(sample.zh.train),
        "records": len(sample.records),
        "new_ids": settings.NEW_IDS,
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
