"""`zhuzi demo`: all steps on a small sample, then a report."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from zhuzi.cli import options
from zhuzi.cli.options import OUT_FOLDER, PATH, say


@click.command()
@click.option("--out", type=OUT_FOLDER, default=Path("demo-run"), show_default=True, help="Folder to write.")
@click.option("--corpus", type=PATH, default=None, help="Chinese text, .jsonl or .txt. [default: built in]")
@click.option(
    "--instructions", type=PATH, default=None, help="Alpaca records, .json or .jsonl. [default: built in]"
)
@click.option(
    "--base-tokenizer",
    type=PATH,
    default=None,
    help="SentencePiece BPE model of the base. [default: a 32,000-piece one from mistral-common]",
)
@click.option("--seed", default=42, show_default=True, type=click.IntRange(min=0))
@options.overwrite
def demo(
    out: Path,
    corpus: Path | None,
    instructions: Path | None,
    base_tokenizer: Path | None,
    seed: int,
    overwrite: bool,
) -> None:
    """Teach a small English LLaMA Chinese, from vocabulary to chat, in a few minutes on a CPU.

    Every step is the real one, on small data; OUT/report.html shows what each did. After an interruption the
    same command resumes.
    """
    # On shared cores, threads that spin while waiting make small models several times slower. OpenMP reads
    # this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from zhuzi.demo import run_demo

    # What they say is in the report, or in the demo's own lines; warnings are shown.
    logs = [logging.getLogger(f"zhuzi.{name}") for name in ("train", "model")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        made = run_demo(
            out,
            corpus=corpus,
            instructions=instructions,
            base_tokenizer=base_tokenizer,
            seed=seed,
            overwrite=overwrite,
            say=_say_now,
        )
    except KeyboardInterrupt as stop:
        # Without a note, it was interrupted before the first step.
        for note in getattr(stop, "__notes__", [f"{out}: no step was begun; run the same command again"]):
            click.echo(note, err=True)
        raise
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    say(
        "{report}: what each step did; to chat with the model: "
        "zhuzi chat --model {model} --temperature 1 --top-k 0",
        report=made.report,
        model=made.model,
    )


def _say_now(line: str) -> None:
    """One line of progress, flushed, so that it reaches a log file at once."""
    click.echo(line)
    sys.stdout.flush()
