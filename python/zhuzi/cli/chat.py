"""`zhuzi chat`: talk with a tuned model in the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from zhuzi.cli.options import PATH


@click.command()
@click.option("--model", type=PATH, required=True, help="Folder of a tuned model.")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--temperature",
    default=0.2,
    show_default=True,
    type=click.FloatRange(min=0),
    help="0 always takes the likeliest token.",
)
@click.option("--top-p", default=0.9, show_default=True, type=click.FloatRange(min=0, max=1, min_open=True))
@click.option("--top-k", default=40, show_default=True, type=click.IntRange(min=0), help="0 = all tokens.")
@click.option(
    "--repetition-penalty", default=1.1, show_default=True, type=click.FloatRange(min=0, min_open=True)
)
@click.option("--seed", type=int, default=None, help="Repeat a draw.")
@click.option("--device", default=None, help="[default: a GPU if there is one, else the CPU]")
def chat(
    model: Path,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    seed: int | None,
    device: str | None,
) -> None:
    """Talk with a model. With text on standard input it answers that and ends.

    Each question stands alone: the published tuning knows no turns. An empty line, Ctrl-D or `exit` ends.
    """
    from zhuzi.chat import Chat

    if sys.stdin is None:
        raise click.UsageError("standard input is closed; write a question to it, or use a terminal")
    interactive = sys.stdin.isatty()
    asked = None if interactive else sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if asked == "":
        raise click.UsageError("standard input holds no text; write a question to it")
    talk = Chat.from_dir(model, device=device)

    def answer(question: str) -> None:
        pieces = talk.reply(
            question,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        for piece in pieces:
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()

    if asked is not None:
        return answer(asked)
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys and history for input()
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            click.echo()
            return None
        if question in {"", "exit"}:
            return None
        answer(question)
