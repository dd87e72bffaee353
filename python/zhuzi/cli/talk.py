"""Talking with a model in the terminal: what is typed, the commands, what is shown beside an answer."""

from __future__ import annotations

import logging
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from zhuzi._paths import expand
from zhuzi._show import count
from zhuzi.cli.markdown import Screen, visible
from zhuzi.cli.options import reason
from zhuzi.errors import ZhuziError
from zhuzi.infer.session import Session

HELP = """\
/reset           forget the conversation
/undo            forget the last question and its answer
/retry           ask the last question again
/save FILE       write the conversation (JSON, a record for `zhuzi sft`)
/load FILE       go on from such a file
/set             show the settings
/set NAME VALUE  change one, as in /set temperature 0.7
/system TEXT     set the system prompt; without TEXT it is shown, with - it is removed
/help            this list
/exit            end (also: exit, Ctrl-D)

Ctrl-C stops an answer. A line that ends with \\ goes on in the next; \"\"\" begins and ends several lines.
A question that begins with / is asked with //."""


def talk(session: Session, screen: Screen) -> None:
    """Questions, answers and commands, until the user ends the talk."""
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys and history for input()
    warned = False
    while True:
        try:
            question = _read().strip()
            question.encode()  # bytes that are not text arrive as lone surrogates
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt as stop:
            click.echo()
            if not by_key(stop):
                raise
            if warned:
                return
            warned = True
            _aside("Ctrl-C again, or Ctrl-D, ends")
            continue
        except UnicodeError:
            click.echo("that was not UTF-8; set the terminal to UTF-8", err=True)
            continue
        if not question and session.questions and not warned:  # an empty line alone must not lose the talk
            warned = True
            _aside("an empty line again, or Ctrl-D, ends; /help lists the commands")
            continue
        if question in {"", "exit", "/exit", "/quit"}:
            return
        warned = False
        try:
            _do(session, screen, question)
        except KeyboardInterrupt as stop:
            click.echo()
            if not by_key(stop):
                raise
        except (ZhuziError, OSError, ValueError) as error:
            click.echo(f"zhuzi: {reason(error)}", err=True)


def _do(session: Session, screen: Screen, typed: str) -> None:
    """Answer a question, or do what a command says."""
    if not typed.startswith("/") or typed.startswith("//"):
        _answer(session, screen, typed.removeprefix("/") if typed.startswith("//") else typed)
        return
    name, _, rest = typed[1:].partition(" ")
    rest = rest.strip()
    if name == "retry":
        question = session.undo()
        if question is None:
            _aside("nothing was asked yet")
        else:
            _answer(session, screen, question)
        return
    command = _COMMANDS.get(name)
    if command is None:
        raise ValueError(f"there is no command /{name}; /help lists them, and // begins a question with /")
    _aside(command(session, rest))


def _answer(session: Session, screen: Screen, question: str) -> None:
    pieces = session.ask(question)
    if session.dropped:
        _aside(f"{count(session.dropped, 'earlier question')} no longer fit and are left out")
    began = time.monotonic()
    try:
        with keys_unseen(), warnings_after():
            screen.show(pieces)
    finally:
        pieces.close()  # type: ignore[attr-defined]  # a generator; remembers what came
        _aside(_speed(session, time.monotonic() - began))


def _speed(session: Session, seconds: float) -> str:
    answer = session.last
    rate = f", {answer.tokens / seconds:,.1f} tokens/s" if seconds > 0 and answer.tokens else ""
    positions = session.chat.positions
    room = "" if positions is None else f"; {answer.prompt + answer.tokens:,} of {positions:,} positions"
    return f"{count(answer.tokens, 'token')}{rate}{room}"


def _reset(session: Session, rest: str) -> str:
    forgotten = session.questions
    session.reset()
    return f"forgot {count(forgotten, 'question')}"


def _undo(session: Session, rest: str) -> str:
    question = session.undo()
    return "nothing was asked yet" if question is None else f"forgot: {visible(question)[:60]}"


def _save(session: Session, rest: str) -> str:
    session.save(_file(rest, "save"))
    return f"{rest}: {count(session.questions, 'question')}"


def _load(session: Session, rest: str) -> str:
    session.load(_file(rest, "load"))
    return f"{rest}: {count(session.questions, 'question')}; the next one follows them"


def _set(session: Session, rest: str) -> str:
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if not name:
        return shown_settings(session)
    name = name.strip("-").replace("-", "_")
    if value.strip():
        session.set(name, value.strip())
    elif name not in session.settings():
        raise ValueError(f"{name} is no setting; there are {', '.join(session.settings())}")
    return f"{name} {session.settings()[name]}"


def _system(session: Session, rest: str) -> str:
    if rest:
        session.system = "" if rest == "-" else rest
    return visible(f"system prompt: {session.system}") if session.system else "no system prompt"


def _file(rest: str, command: str) -> Path:
    if not rest:
        raise ValueError(f"/{command} needs the name of a file")
    return expand(Path(rest))


_COMMANDS: dict[str, Callable[[Session, str], str]] = {
    "reset": _reset,
    "undo": _undo,
    "save": _save,
    "load": _load,
    "set": _set,
    "system": _system,
    "help": lambda session, rest: HELP,
}


def shown_settings(session: Session) -> str:
    """The settings in one line."""
    return ", ".join(f"{name} {value}" for name, value in session.settings().items())


def _read() -> str:
    """A question: a line, lines joined by a backslash, or all between two lines of three quotes."""
    line = input("> ")
    if line.lstrip().startswith('"""'):
        lines = [line.lstrip()[3:]]
        while not lines[-1].rstrip().endswith('"""'):
            lines.append(input(". "))
        lines[-1] = lines[-1].rstrip()[:-3]
        return "\n".join(lines).strip("\n")
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{input('. ')}"
    return line


def _aside(text: str) -> None:
    """What is not an answer, on stderr; dim on a terminal."""
    click.secho(text if "\n" in text else f"({text})", err=True, dim=True)


@contextmanager
def keys_unseen() -> Iterator[None]:
    """Keys pressed meanwhile are not echoed: `^C` or a line typed ahead would shift what is drawn."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):
        yield
        return
    try:
        quiet = list(before)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextmanager
def warnings_after() -> Iterator[None]:
    """Holds warnings of generation back until an answer is written, which they would otherwise part."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    log = logging.getLogger("zhuzi.infer.generate")
    log.addFilter(hold)
    try:
        yield
    finally:
        log.removeFilter(hold)
        for record in held:
            log.handle(record)


def by_key(stop: KeyboardInterrupt) -> bool:
    """True if Ctrl-C was pressed, false if a signal asks the process to end."""
    return type(stop) is KeyboardInterrupt
