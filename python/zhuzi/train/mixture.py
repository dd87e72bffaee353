"""Several corpora in one run, each as often as its weight says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zhuzi._show import count
from zhuzi.errors import TrainingError
from zhuzi.train.order import Joined, Repeated, Rest
from zhuzi.train.progress import tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zhuzi.train.data import Blocks


class Mixture:
    """The blocks of several corpora, one after the other, and how many of each an epoch has.

    With weight 1 each block of a corpus is there once in an epoch, with 2 twice; 0.5 takes half of the
    blocks, drawn by `seed`. No list of blocks is held in memory.
    """

    def __init__(self, parts: Sequence[Blocks], weights: Sequence[float]) -> None:
        self.parts, self.weights = tuple(parts), tuple(weights)
        self._ends: NDArray[np.int64] = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Any:
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self.parts[part][int(i - (self._ends[part - 1] if part else 0))]

    @property
    def is_weighted(self) -> bool:
        """Whether an epoch is another number of blocks than there are."""
        return any(weight != 1 for weight in self.weights)

    def epoch(self, held: Sequence[int], seed: int) -> Sequence[int]:
        """All blocks but those `held` out (ascending), as often as the weights say; says what each gives.

        Raises:
            TrainingError: the weights leave no block.
        """
        bounds = [0, *self._ends.tolist()]
        order = [
            Repeated(Rest(begin, end, held), weight, seed, "corpus", number)
            for number, (begin, end, weight) in enumerate(zip(bounds, bounds[1:], self.weights, strict=False))
        ]
        sizes = list(map(len, order))
        if not sum(sizes):
            raise TrainingError("the weights of corpus leave no block; raise them")
        for part, weight, size in zip(self.parts, self.weights, sizes, strict=True):
            share = f"{count(size, 'block')} of {sum(sizes):,} in an epoch ({size / sum(sizes):.1%})"
            tell(f"{part.corpus.path}: weight {weight:g}, {share}")
        return Joined(order)
