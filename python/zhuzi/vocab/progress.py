"""How far training has come: reading by bytes, SentencePiece by what it logs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

Phase = Literal["reading", "counting", "training"]


class TrainingProgress(NamedTuple):
    """How far `train_vocab` has come."""

    phase: Phase
    done: int
    """Bytes of the input files read so far."""
    total: int
    """Bytes of the input files in all; 0 if unknown."""
    seconds: float
    """Since the phase began."""
    share: float | None = None
    """Share of the phase that is done, 0 to 1; None if unknown, as at the start of training."""


class Clock:
    """Reports progress a few times a second."""

    every = 0.2

    def __init__(self, progress: Callable[[TrainingProgress], None] | None) -> None:
        self._progress = progress
        self._phase: Phase | None = None
        self._began = self._shown = time.monotonic()

    def is_due(self, phase: Phase) -> bool:
        """Whether to report on `phase` now: when it begins, and then a few times a second."""
        if self._progress is None:
            return False
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began = phase, now
        elif now - self._shown < self.every:
            return False
        self._shown = now
        return True

    def show(self, done: int = 0, total: int = 0, share: float | None = None) -> None:
        """Report the state."""
        if self._progress is not None and self._phase is not None:
            share = done / total if total else share
            self._progress(TrainingProgress(self._phase, done, total, self._shown - self._began, share))


# Lines of SentencePiece's log (0.2.2). Where another version words them differently no share is known.
_SEEDS = re.compile(rb"Initialized (\d+) seed")
_SIZE = re.compile(rb"EM sub_iter=\d+ size=(\d+)")
_ALPHABET = re.compile(rb"Alphabet size=(\d+)")
_MERGES = re.compile(rb"merges=(\d+)")


def trained_share(log: bytes, vocab_size: int) -> float | None:
    """Share of the training done, 0 to 1, by SentencePiece's log so far; None if it does not tell.

    BPE adds a piece per merge. Unigram removes a quarter of its seed pieces per round of EM, until 1.1 times
    the vocabulary are left; each round counts as much as any other, though the later ones are shorter.
    """
    if sizes := _SIZE.findall(log):
        start = max(int(seeds[1]) if (seeds := _SEEDS.search(log)) else 0, int(sizes[0]))
        end = max(1.1 * vocab_size, 1)
        done = math.log(start / int(sizes[-1])) if int(sizes[-1]) else 0.0
        return _bounded(done / math.log(start / end)) if start > end else 1.0
    if merges := _MERGES.findall(log):
        alphabet = int(found[1]) if (found := _ALPHABET.search(log)) else 0
        return _bounded(int(merges[-1]) / max(vocab_size - alphabet, 1))
    return None


def _bounded(share: float) -> float:
    return min(max(share, 0.0), 1.0)
