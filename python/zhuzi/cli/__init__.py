"""The command line: one command a step, each a thin face of a function in the package.

Exit codes: 0 done, 1 failed (one line on stderr says why; `--debug` adds the trace), 2 wrong usage.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

import click

from zhuzi import __version__
from zhuzi.cli.chat import chat
from zhuzi.cli.corpus import corpus
from zhuzi.cli.demo import demo
from zhuzi.cli.model import model
from zhuzi.cli.train import pretrain, sft
from zhuzi.cli.vocab import vocab
from zhuzi.errors import ZhuziError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zhuzi")
@click.option("--debug", is_flag=True, help="Show the whole trace of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Teach an existing LLaMA Chinese (铸字, "casting type").

    The road: vocab train, vocab merge, corpus encode, model extend, pretrain (twice), model merge, sft,
    model merge, chat. `zhuzi demo` walks all of it on a small built-in sample.
    """
    context.obj = {"debug": debug}
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("zhuzi").setLevel(logging.INFO)
    if not debug:
        # Between libraries, none a user's: kernels of bitsandbytes' 4-bit path, names PEFT still uses.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning)


for command in (vocab, corpus, model, pretrain, sft, chat, demo):
    cli.add_command(command)


def main() -> None:
    """Entry point of `zhuzi`."""
    debug = "--debug" in sys.argv
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", debug)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except ModuleNotFoundError as error:
        extras = {"jinja2": "demo", "matplotlib": "demo", "mistral_common": "demo"}
        extra = {**extras, "pyarrow": "export", "ray": "ray"}.get(error.name or "", "train")
        _fail(f"this command needs {error.name}; install it with: pip install 'zhuzi[{extra}]'", debug)
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{place}{error.strerror or error}", debug)
    except (ZhuziError, ValueError, MemoryError) as error:
        _fail(str(error) or type(error).__name__, debug)


def _fail(reason: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"zhuzi: {' '.join(reason.split())}", err=True)
    sys.exit(1)
