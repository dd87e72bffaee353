"""`zhuzi chat`: chat with a tuned model in the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from zhuzi.cli import options
from zhuzi.cli.options import PATH, reason
from zhuzi.errors import InputError, ZhuziError
from zhuzi.infer.sampling import Sampling


@click.command()
@click.option("--model", type=PATH, required=True, help="Folder of a tuned model.")
@options.sampling
@click.option("--seed", type=int, default=Sampling.seed, help="Seed, to make a draw repeatable.")
@options.device
def chat(model: Path, device: str | None, **settings: Any) -> None:
    """Chat with a model. Text on standard input is one question: it is answered, and the command ends.

    Each question is answered on its own, since the published tuning has single turns only. Ctrl-C ends an
    answer; an empty line, Ctrl-D or `exit` ends the chat.
    """
    from zhuzi.infer.chat import Chat, open_model

    if sys.stdin is None:
        raise click.UsageError("standard input is closed; write a question to it, or use a terminal")
    sampling = Sampling(**settings)
    asked = None if sys.stdin.isatty() else _piped()
    folder = open_model(model, asked)
    click.echo(f"chat: loading {model}", err=True)
    talk = Chat.load(folder, device=device)

    def answer(question: str) -> None:
        _write(talk.reply(question, sampling=sampling))

    if asked is not None:
        answer(asked)
    else:
        _talk(answer)


def _write(pieces: Iterable[str]) -> None:
    """Write an answer as it comes, and after it its warnings, which would otherwise land in its line."""
    warnings: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        warnings.append(record)
        return False

    log = logging.getLogger("zhuzi.infer.generate")
    log.addFilter(hold)
    try:
        for piece in pieces:
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()
    finally:
        log.removeFilter(hold)
        for record in warnings:
            log.handle(record)


def _piped() -> str:
    """The question on standard input."""
    read = sys.stdin.buffer.read()
    try:
        asked = read.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: {_not_utf8(read, error)}") from None
    if not asked:
        raise click.UsageError("standard input holds no text; write a question to it")
    return asked


def _not_utf8(read: bytes, error: UnicodeDecodeError) -> str:
    try:
        read.decode("gb18030")
        fix = "it may be GBK: convert it with `iconv -f gb18030 -t utf-8`"
    except UnicodeDecodeError:
        fix = "convert it to UTF-8 first"
    return f"not UTF-8 at byte {error.start:,}; {fix}"


def _talk(answer: Callable[[str], None]) -> None:
    """Questions and answers, until the user ends the chat."""
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys and history for input()
    interrupted = False
    while True:
        try:
            question = input("> ").strip()
            question.encode()  # bytes that are not text arrive as lone surrogates
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt as stop:
            click.echo()
            if not _by_key(stop):
                raise
            if interrupted:
                return
            interrupted = True
            click.echo("(Ctrl-C again, or Ctrl-D, ends)", err=True)
            continue
        except UnicodeError:
            click.echo("that was not UTF-8; set the terminal to UTF-8", err=True)
            continue
        interrupted = False
        if question in {"", "exit"}:
            return
        try:
            answer(question)
        except KeyboardInterrupt as stop:
            click.echo()
            if not _by_key(stop):
                raise
        except (ZhuziError, ValueError) as error:
            click.echo(f"zhuzi: {reason(error)}", err=True)


def _by_key(stop: KeyboardInterrupt) -> bool:
    """True if Ctrl-C was pressed, false if a signal asks the process to end."""
    return type(stop) is KeyboardInterrupt
