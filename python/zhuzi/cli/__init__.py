"""The command line: one command per step, each a thin layer over a function of the package.

Exit codes: 0 done, 1 failed (one line on stderr says why; `--debug` adds the trace), 2 wrong usage, 75
training that a signal stopped after a checkpoint, 128 + N other work that the signal N ended (Ctrl-C: 130).
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
import warnings

import click

from zhuzi import __version__
from zhuzi._process import is_first_here, is_main, is_together, rank
from zhuzi.cli.chat import chat
from zhuzi.cli.corpus import corpus
from zhuzi.cli.demo import demo
from zhuzi.cli.doctor import doctor
from zhuzi.cli.eval import evaluate
from zhuzi.cli.info import info
from zhuzi.cli.instruct import instruct
from zhuzi.cli.model import model
from zhuzi.cli.options import Road, reason
from zhuzi.cli.plan import plan
from zhuzi.cli.recipes import recipes
from zhuzi.cli.serve import serve
from zhuzi.cli.tokenize import tokenize
from zhuzi.cli.train import pretrain, sft
from zhuzi.cli.vocab import vocab
from zhuzi.errors import TrainingInterrupted, ZhuziError


@click.group(cls=Road, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zhuzi")
def cli() -> None:
    """Teach an existing LLaMA Chinese (铸字, "casting type").

    The steps: vocab train, vocab merge, corpus encode, model extend, pretrain (twice), model merge, sft,
    model merge, chat. `zhuzi demo` runs all of them on a small built-in sample.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("zhuzi").setLevel(logging.INFO)
    if not is_main():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    # Messages between libraries, not for users: kernels of bitsandbytes' 4-bit path, names PEFT still uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


model.add_command(plan)
model.add_command(info)
for command in (
    vocab,
    tokenize,
    corpus,
    model,
    recipes,
    pretrain,
    instruct,
    sft,
    evaluate,
    chat,
    serve,
    demo,
    doctor,
):
    cli.add_command(command)


def _take_debug(command: click.Command) -> None:
    """Give the command and its subcommands `--debug`, so that it may be anywhere on the line."""

    def note(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        given = context.ensure_object(dict)
        given["debug"] = given.get("debug", False) or wanted

    command.params.append(
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=note,
            help="Show the full trace of an error.",
        )
    )
    for inner in getattr(command, "commands", {}).values():
        _take_debug(inner)


_take_debug(cli)


def main() -> None:
    """Entry point of `zhuzi`."""
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal cannot show are replaced: finished work must not fail on its report.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    options = {"debug": False}
    try:
        cli.main(standalone_mode=False, obj=options)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        if is_first_here():
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        cause = stop.__cause__ if isinstance(stop, click.Abort) else stop  # click's own for any interrupt
        number = cause.number if isinstance(cause, Terminated) else signal.SIGINT
        _fail("interrupted", options["debug"], code=128 + number)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except ModuleNotFoundError as error:
        extras = {"httpx2": "instruct", "jieba": "demo", "jinja2": "pages", "mistral_common": "demo"}
        extras |= dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve")
        extra = {**extras, "pyarrow": "export", "ray": "ray"}.get(error.name or "", "train")
        _fail(
            f"this command needs {error.name}; install it with: pip install 'zhuzi[{extra}]'",
            options["debug"],
        )
    except TrainingInterrupted as stopped:
        if is_main():
            click.echo(f"zhuzi: {stopped}", err=True)
        sys.exit(75)  # EX_TEMPFAIL of sysexits.h: try again
    except (ZhuziError, OSError, ValueError, IndexError) as error:
        _fail(reason(error), options["debug"])
    except Exception as error:
        # Not expected: a trace helps whoever reports it.
        why = f"unexpected {type(error).__name__}: {error} (zhuzi --debug shows where)"
        _fail(why, options["debug"], alike=False)


def _interrupt(signal_number: int, frame: object) -> None:
    """End the work as Ctrl-C does, so that incomplete outputs are removed."""
    raise Terminated(signal_number)


class Terminated(KeyboardInterrupt):
    """The process was told to end, unlike Ctrl-C, which may only end an answer of a chat."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


def _fail(reason: str, debug: bool, *, code: int = 1, alike: bool = True) -> None:
    """Print why and exit. Errors that all processes of torchrun meet `alike` are printed once per machine."""
    if alike and not is_first_here() and (reason == "interrupted" or not is_together()):
        sys.exit(code)
    if debug:
        traceback.print_exc()
    who = "zhuzi" if is_main() else f"zhuzi (rank {rank()})"
    click.echo(f"{who}: {' '.join(reason.split())}", err=True)
    sys.exit(code)
