"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zhuzi.errors import OutputExistsError

_log = logging.getLogger("zhuzi")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold FOLDER/.lock (flock) for the block. The system releases it when the process ends, however it ends.

    `what` says what a process does there, as in "trains". Where the file system has no locks, a warning says
    so.

    Raises:
        OutputExistsError: another process holds it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExistsError(
                f"{folder}: another process {what} there; wait for it, or choose another output"
            ) from None
        except OSError as error:  # a file system without locks
            _log.warning("%s: cannot be locked (%s); start no second process there", folder, error.strerror)
        yield
