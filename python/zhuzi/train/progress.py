"""Progress of training, from rank 0 only: a bar where somebody looks, lines elsewhere."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from zhuzi._process import is_main

_log = logging.getLogger("zhuzi.train")


def tell(line: str) -> None:
    """One line of progress: to the log, or to stderr in a script that has not set up logging."""
    if not is_main():
        return
    with _beside_bars():
        if _log.hasHandlers():
            _log.info("%s", line)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201  # logging would drop it


def warn(line: str) -> None:
    """One line that somebody should read."""
    if is_main():
        _log.warning("%s", line)


def bar(total: int, done: int, wanted: bool | None) -> Any:
    """A bar of `total` steps that starts at `done`, or None where lines are to be written.

    If `wanted` is None there is a bar in a notebook and on a terminal.
    """
    notebook = "ipykernel" in sys.modules or "google.colab" in sys.modules
    if not (wanted or (wanted is None and (notebook or sys.stderr.isatty()))):
        return None
    # Without ipywidgets tqdm's notebook bar warns and fails.
    kind = "tqdm.notebook" if notebook and find_spec("ipywidgets") else "tqdm"
    # Its own time left would count evaluations and checkpoints.
    shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    return import_module(kind).tqdm(
        total=total, initial=done, unit="step", bar_format=shown, dynamic_ncols=True
    )


def _beside_bars() -> AbstractContextManager[Any]:
    """Takes the bars off the terminal meanwhile, or a line would follow one in its line."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    shown: AbstractContextManager[Any] = sys.modules["tqdm"].tqdm.external_write_mode(file=sys.stderr)
    return shown
