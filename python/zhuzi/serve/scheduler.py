"""Who computes when: some answers grow at the same time, a token each in turn; others wait, up to a bound.

One thread computes everything, since two forwards at once on one device only slow each other down. Answers
are not batched: the ids of one then depended on what else is asked (sums in another order), and a seed would
not repeat it. transformers' own continuous batching takes no seed per request, and needed 65 s on a CPU for
what took 2.7 s one by one (4 prompts of 24 tokens, transformers 5.24).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from zhuzi.infer.answer import Delta


class BusyError(Exception):
    """As many answers wait as may."""


class Job:
    """One answer to make."""

    def __init__(
        self, make: Callable[[], Iterator[Delta]], deliver: Callable[[Delta | BaseException | None], None]
    ) -> None:
        """`deliver` is called in the computing thread: with each delta, then with None, or with an error."""
        self.make, self.deliver = make, deliver
        self.cancelled = False


class Scheduler:
    """Computes jobs in a thread of its own."""

    def __init__(self, parallel: int, queue: int) -> None:
        self._parallel, self._bound = parallel, queue
        self._waiting: deque[Job] = deque()
        self._active: deque[tuple[Job, Iterator[Delta]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="zhuzi-answers", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """Answers that grow now."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return len(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs of one request, all or none.

        Raises:
            BusyError: there is no room for them.
        """
        with self._changed:
            free = self._bound + max(0, self._parallel - len(self._active)) - len(self._waiting)
            if self._closed or len(jobs) > free:
                raise BusyError
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Give up jobs: one that waits leaves at once, one that grows before its next token."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def close(self) -> None:
        """Give up every job, and end the thread."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._admit():
            job, deltas = self._active[0]
            goes_on = not (job.cancelled or self._closed) and self._advance(job, deltas)
            with self._changed:
                self._active.popleft()
                if goes_on:
                    self._active.append((job, deltas))
            if not goes_on:
                close = getattr(deltas, "close", None)  # frees the cache, which may be large
                if close is not None:
                    close()
            del job, deltas

    def _admit(self) -> bool:
        """Fill free places, or wait; false if there is nothing to do any more."""
        with self._changed:
            while not (self._waiting or self._active or self._closed):
                self._changed.wait()
            while self._waiting and len(self._active) < self._parallel:
                job = self._waiting.popleft()
                self._active.append((job, _lazily(job.make)))
            return bool(self._active)

    @staticmethod
    def _advance(job: Job, deltas: Iterator[Delta]) -> bool:
        """Make one token; false if it was the last."""
        try:
            delta = next(deltas)
        except StopIteration:
            job.deliver(None)
            return False
        except BaseException as error:
            job.deliver(error)
            return False
        job.deliver(delta)
        return True


def _lazily(make: Callable[[], Iterator[Delta]]) -> Iterator[Delta]:
    """The deltas; what `make` raises is raised at the first of them."""
    yield from make()
