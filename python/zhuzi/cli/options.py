"""Options that several commands share, and how figures are shown."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zhuzi._paths import expand_text
from zhuzi.corpus.options import CorpusOptions
from zhuzi.errors import message
from zhuzi.infer.sampling import Sampling


class _Place(click.Path):
    """A path, never the empty one that an unset variable of the shell leaves (it would mean `.`).

    `~` and `$VAR` are expanded where the shell did not, as in `--out=~/run`.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty path", param, ctx)
        return super().convert(_expanded(self, value, param, ctx), param, ctx)


class _Model(click.types.StringParamType):
    """A model folder, or an id on the hub."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _expanded(self, value, param, ctx)


def _expanded(
    kind: click.ParamType[Any], value: Any, param: click.Parameter | None, ctx: click.Context | None
) -> str:
    try:
        return expand_text(os.fspath(value))
    except ValueError as error:
        kind.fail(str(error), param, ctx)


class Input(_Place):
    """What a command reads."""


class Output(_Place):
    """What a command writes; what is there is checked (`zhuzi.record.place`) before the work begins."""


#: A file or folder. One that cannot be read fails where it is read: that is no wrong usage.
PATH = Input(readable=False, path_type=Path)
OUT_FOLDER = Output(readable=False, path_type=Path)
OUT_FILE = Output(readable=False, path_type=Path)
MODEL = _Model()


class Road(click.Group):
    """Lists the commands in the order in which they are used, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them as click does, but wrap long summaries instead of cutting them."""
        rows = [(name, command.get_short_help_str(limit=1000)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Several(click.Command):
    """A command without arguments: an option that may be repeated takes several values at once, as a shell's
    pattern gives them (`--model runs/*`)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat such an option before each further value."""
        repeated = {
            name
            for param in self.params
            if isinstance(param, click.Option) and param.multiple
            for name in param.opts
        }
        told: list[str] = []
        several, waits = None, False  # the option that may be repeated; whether its value is next
        for given in args:
            if given.startswith("-") and given != "-" and not waits:
                name, equals, _ = given.partition("=")
                several, waits = (name, not equals) if name in repeated else (None, False)
            elif several is not None and not waits:
                told.append(several)
            else:
                waits = False
            told.append(given)
        return super().parse_args(ctx, told)


out = click.option("--out", type=OUT_FOLDER, required=True, help="Folder to write; must be new or empty.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what Zhuzi wrote there before.")
settings = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put a setting over the recipe's, such as steps=10 or lora.rank=16; may be given several times.",
)
fields = click.option(
    "--field",
    multiple=True,
    default=[CorpusOptions.field],
    show_default=True,
    help="The field or column that holds the text, or a path to it (content.text); several are joined by a "
    "newline.",
)
split = click.option(
    "--split",
    type=click.Choice(["line", "blank-line", "separator", "file"]),
    default=None,
    help=f"What one document of a .txt file is. [default: {CorpusOptions.split}]",
)
stdin_format = click.option(
    "--stdin",
    "stdin_format",
    type=click.Choice(["jsonl", "txt"]),
    default=CorpusOptions.stdin_format,
    show_default=True,
    help="How standard input (the input `-`) is read.",
)
on_error = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do at a record that cannot be read.",
)
threads = click.option(
    "--threads", type=click.IntRange(1, 1024), default=None, help="Threads to use. [default: every core]"
)


def _bits(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    return None if value is None else int(value)


bits = click.option(
    "--bits",
    type=click.Choice(["4", "8"]),
    callback=_bits,
    help="Quantise the model as it is loaded: NF4 or int8, by bitsandbytes. [default: as it is]",
)
device = click.option(
    "--device", default=None, help="Device of torch. [default: a GPU if there is one, else the CPU]"
)

template = click.option(
    "--template",
    type=MODEL,
    help="alpaca, llama-2, chatml, or a Jinja file. [default: what the model was tuned with]",
)

_SAMPLING = (
    click.option(
        "--max-new-tokens",
        default=Sampling.max_new_tokens,
        show_default=True,
        type=click.IntRange(min=1),
        help="Longest answer, in tokens.",
    ),
    click.option(
        "--temperature",
        default=Sampling.temperature,
        show_default=True,
        type=click.FloatRange(min=0),
        help="0 always takes the most likely token.",
    ),
    click.option(
        "--top-p",
        default=Sampling.top_p,
        show_default=True,
        type=click.FloatRange(min=0, max=1, min_open=True),
        help="Draw from the most likely tokens whose probabilities sum to this; 1 = all tokens.",
    ),
    click.option(
        "--top-k",
        default=Sampling.top_k,
        show_default=True,
        type=click.IntRange(min=0),
        help="Draw from this many of the most likely tokens; 0 = all tokens.",
    ),
    click.option(
        "--repetition-penalty",
        default=Sampling.repetition_penalty,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Make tokens that have already occurred less likely; 1 = no effect.",
    ),
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def sampling(command: _Function) -> _Function:
    """The options of `Sampling` but its seed."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def _unescaped(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None or "\\" not in value:
        return value
    try:
        return codecs.decode(value.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{error.reason}; write a backslash as \\\\") from None


separator = click.option(
    "--separator",
    callback=_unescaped,
    help=r"With --split separator: the string between documents; \n and \t mean what they do in Python.",
)


def reason(error: Exception) -> str:
    """What an error says, on one line: errors of the system with the path first, options as flags."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or error}"
    return message(error, flag) or type(error).__name__


#: Flags that are not named like the keyword.
_FLAGS = {"stdin_format": "stdin", "part": "task"}


def flag(name: str, value: bool | int | str | None) -> str:
    """An option as it is written at the command line: `--overwrite`, `--on-error skip`."""
    written = _FLAGS.get(name, name).replace("_", "-")
    if value is None or value is True:
        return f"--{written}"
    return f"--no-{written}" if value is False else f"--{written} {value}"


def say(text: str, **figures: Any) -> None:
    """Print a line of the result; whole numbers get thousands separators."""
    shown = {key: f"{value:,}" if isinstance(value, int) else value for key, value in figures.items()}
    click.echo(text.format(**shown))
