"""`zhuzi chat`: chat with a tuned model in the terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi.cli import options
from zhuzi.cli.options import PATH
from zhuzi.errors import InputError
from zhuzi.infer.sampling import Sampling

if TYPE_CHECKING:
    from zhuzi.infer.template import Template


@click.command()
@click.option("--model", type=PATH, required=True, help="Folder of a tuned model, or GGUF file.")
@click.option("--system", default="", help="System prompt.")
@options.template
@click.option("--history/--no-history", default=True, help="Ask each question after those before it.")
@click.option("--markdown/--no-markdown", default=True, help="Show answers as Markdown on a terminal.")
@click.option("--web", is_flag=True, help="Chat on a page in the browser, instead of the terminal.")
@click.option(
    "--browser/--no-browser",
    default=True,
    help="With --web: open the page where the machine has a screen, or print its address alone.",
)
@options.sampling
@click.option("--seed", type=int, default=Sampling.seed, help="Seed, to make a draw repeatable.")
@options.bits
@options.device
def chat(
    model: Path,
    system: str,
    template: str | None,
    history: bool,
    markdown: bool,
    web: bool,
    browser: bool,
    bits: Any,
    device: str | None,
    **settings: Any,
) -> None:
    """Chat with a model. Text on standard input is one question: it is answered, and the command ends.

    Questions are asked after those before them, as far as they fit. /help lists the commands. Ctrl-C stops an
    answer; Ctrl-D or `exit` ends the chat.

    With --web the chat is the page of `zhuzi serve --web`, on a free port that only this machine reaches;
    Ctrl-C ends it.
    """
    from zhuzi.cli.markdown import PlainScreen, screen_for
    from zhuzi.cli.talk import shown_settings, talk, warnings_after
    from zhuzi.infer.chat import Chat, open_model, unusable_template
    from zhuzi.infer.session import Session
    from zhuzi.infer.templates import template_named

    if web and not markdown:
        raise click.UsageError("--no-markdown goes without --web: the page shows answers as they come")
    if not (web or browser):
        raise click.UsageError("--no-browser goes with --web")
    named = None if template is None else template_named(template)
    if web:
        _on_a_page(model, named, system, history, Sampling(**settings), bits, device, opens=browser)
        return
    if sys.stdin is None:
        raise click.UsageError("standard input is closed; write a question to it, or use a terminal")
    sampling = Sampling(**settings)
    asked = None if sys.stdin.isatty() else _piped()
    folder = open_model(model, asked, template=named, system=system)
    click.echo(f"chat: loading {model}", err=True)
    loaded = Chat.load(folder, device=device, bits=bits)
    unusable = None if named is not None else unusable_template(folder)
    if unusable is not None:
        click.echo(f"chat: the published prompt is used, as the model's own cannot be: {unusable}", err=True)
    if named is not None:
        loaded = replace(loaded, template=named)
    session = Session(loaded, system=system, sampling=sampling, history=history)
    if asked is not None:
        with warnings_after():
            PlainScreen().show(session.ask(asked))
        return
    click.secho(f"template {loaded.template.name}; {shown_settings(session)}", err=True, dim=True)
    talk(session, screen_for(markdown=markdown))


def _on_a_page(
    model: Path,
    template: Template | None,
    system: str,
    history: bool,
    sampling: Sampling,
    bits: Any,
    device: str | None,
    *,
    opens: bool,
) -> None:
    """The chat page, until Ctrl-C."""
    from zhuzi.cli.browser import open_page
    from zhuzi.serve.server import serve_model
    from zhuzi.serve.settings import ServeSettings

    told = ServeSettings(port=0, web=True, stop_seconds=1, system=system, history=history, sampling=sampling)
    click.echo(f"chat: loading {model}", err=True)

    def started(url: str) -> None:
        click.echo(f"chat: {url}/ is the page; Ctrl-C ends it", err=True)
        if opens:
            open_page(f"{url}/")

    serve_model(model, told, device=device, bits=bits, template=template, started=started)


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
