"""Counting the runs of a sample, from while it is still being read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from zhuzi import _core
from zhuzi.vocab.sample import Sample

#: Bytes of text that are worth a call.
WINDOW = 4_000_000


class RunCounts:
    """The runs of a sample, counted on `threads` threads.

    With two or more, one reads and the others count what was read. If text is left out in the end because the
    input exceeds the sample, that was for nothing, and all is counted once the sample is known; so it is not
    begun where `expected` bytes of input are more than the sample holds.
    """

    def __init__(self, make: Callable[[], _core.RunCounter], sample: Sample, threads: int) -> None:
        self.counter = make()
        self._make, self._sample, self._threads = make, sample, threads
        self._parts = self._bytes = 0
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def __enter__(self) -> RunCounts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def count_early(self, expected: int) -> None:
        """Count what the sample got since the last time, if a thread is to spare."""
        sample = self._sample
        if self._threads < 2 or expected > sample.limit or not sample.is_whole:
            return
        if sample.held_bytes - self._bytes < WINDOW or (self._running and not self._running.done()):
            return
        self._wait()
        text, sizes = sample.since(self._parts, self._bytes)
        self._parts, self._bytes = self._parts + len(sizes), self._bytes + len(text)
        self._running = self._pool.submit(self.counter.add, text, sizes, self._threads - 1, None)

    def count_rest(self, progress: Callable[[int, int], None]) -> None:
        """Count the closed sample, which no longer holds its text then; `progress(bytes, total_bytes)`."""
        self._wait()
        whole = self._sample.is_whole
        text, sizes = self._sample.give()
        if self._parts and not whole:
            self.counter = self._make()
            self._parts = self._bytes = 0
        if sizes[self._parts :]:
            with memoryview(text) as view, view[self._bytes :] as rest:
                total = len(rest)
                self.counter.add(
                    rest, sizes[self._parts :], self._threads, lambda done: progress(done, total)
                )

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()
            self._running = None
