"""A folder in which only one process may work at a time."""

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
    """Hold FOLDER/.lock (flock) during the block; the system releases it however the process ends.

    `what` is the verb for the error message, as in "trains". On a file system without locks there is a
    warning instead.

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
