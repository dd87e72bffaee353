"""An answer as it comes on a terminal: plain, or as Markdown in colour."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

# What a model writes must not steer the terminal: its control characters are shown as their pictures.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

#: Seconds between two pictures of an answer that grows.
_PAUSE = 0.08


class Screen(Protocol):
    """Where answers are shown."""

    def show(self, pieces: Iterable[str]) -> None:
        """Show an answer as its pieces come; an exception leaves what came so far."""
        ...


class PlainScreen:
    """Writes an answer as it comes."""

    def __init__(self, *, terminal: bool = False) -> None:
        self._terminal = terminal

    def show(self, pieces: Iterable[str]) -> None:
        """Write the pieces, and a newline at the end."""
        for piece in pieces:
            click.echo(visible(piece) if self._terminal else piece, nl=False)
            sys.stdout.flush()
        click.echo()


class MarkdownScreen:
    """Draws an answer as Markdown. Finished blocks are printed once; the last one is drawn anew as it grows.

    Drawing all of it anew would repeat an answer that is longer than the terminal is high.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False)

    def show(self, pieces: Iterable[str]) -> None:
        """Draw the answer; what is unfinished when it ends is printed as it is then."""
        from rich.live import Live

        text, printed, drawn = "", 0, 0.0
        try:
            # Without a thread of its own: Ctrl-C comes at a place that is known.
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                for piece in pieces:
                    text += visible(piece)
                    end = end_of_blocks(text, printed)
                    if end > printed:
                        live.update("", refresh=True)
                        self._print(text[printed:end])
                        self._console.print()
                        printed = end
                    if time.monotonic() - drawn > _PAUSE:
                        live.update(_Block(text[printed:], grows=True), refresh=True)
                        drawn = time.monotonic()
                live.update("", refresh=True)
        finally:
            self._print(text[printed:])

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(_Block(text), end="")


class _Block:
    """A text as Markdown, without blank lines around it; of one that grows, as much as the terminal shows."""

    def __init__(self, text: str, *, grows: bool = False) -> None:
        self._text, self._grows = text, grows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(_markdown(self._text), options, pad=False)
        full = [at for at, line in enumerate(lines) if any(part.text.strip() for part in line)]
        lines = lines[full[0] : full[-1] + 1] if full else []
        for line in lines[-max(1, console.size.height - 2) :] if self._grows else lines:
            yield from line
            yield Segment.line()


def screen_for(*, markdown: bool) -> Screen:
    """Markdown on a terminal that can show it, if it is wanted and rich is installed; else plain."""
    terminal = sys.stdout.isatty()
    if markdown and terminal:
        try:
            return MarkdownScreen()
        except ModuleNotFoundError:
            pass
    return PlainScreen(terminal=terminal)


def visible(text: str) -> str:
    """A text whose control characters are shown, not obeyed."""
    return text.translate(_PICTURES)


def end_of_blocks(text: str, begin: int) -> int:
    """Where the last finished block of Markdown after `begin` ends: at a blank line outside of code."""
    end, at, fence = begin, begin, ""
    for line in text[begin:].splitlines(keepends=True):
        at += len(line)
        marks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if marks is not None and not fence:
            fence = marks[1]
        elif marks is not None and marks[1].startswith(fence) and not line.strip(" `~\n"):
            fence = ""
        if not fence and not line.strip() and line.endswith("\n"):
            end = at
    return end


def _markdown(text: str) -> Any:
    from rich.markdown import Markdown

    # A newline of the model is a newline: Markdown itself would join the lines of a poem.
    lines, fence = [], ""
    for line in text.splitlines():
        marks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if marks is not None:
            fence = "" if fence and marks[1].startswith(fence) else fence or marks[1]
        lines.append(line if fence or marks is not None or not line.strip() else f"{line}  ")
    return Markdown("\n".join(lines), code_theme="ansi_dark")
