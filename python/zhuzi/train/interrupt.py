"""Ctrl-C, SIGTERM and SIGUSR1 during training: stop at the next step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from zhuzi.train.progress import tell

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interrupts:
    """Notes the first of these signals while it is entered; a second one has its usual effect.

    Only the main thread can take signals: elsewhere nothing is noted, and they have their usual effect.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """The name of the signal, if one has come."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()
        with suppress(RuntimeError):  # the signal came while a line was being written
            tell(f"{self.received}: saving a checkpoint after this step; a second one ends at once")

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
