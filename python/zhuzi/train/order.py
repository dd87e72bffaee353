"""Orders of examples that are computed, not stored: a shuffle, and what is left when some are held out."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import overload

_ROUNDS = 6
_WORD = (1 << 64) - 1


class _Numbers(Sequence[int]):
    """A sequence of numbers of which each is computed when it is asked for."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, i: int) -> int: ...

    @overload
    def __getitem__(self, i: slice) -> list[int]: ...

    def __getitem__(self, i: int | slice) -> int | list[int]:
        if isinstance(i, slice):
            return [self._at(k) for k in range(*i.indices(self._length))]
        if not -self._length <= i < self._length:
            raise IndexError(f"{i} of {self._length}")
        return self._at(i % self._length)

    def _at(self, i: int) -> int:
        raise NotImplementedError


class Shuffle(_Numbers):
    """The numbers 0 to `length` - 1 in an order drawn by `seed`; takes no memory, whatever the length.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers below a power of four; a number that falls
    outside goes through it again until it is inside (Black and Rogaway 2002).
    """

    def __init__(self, length: int, *seed: object) -> None:
        super().__init__(length)
        draw = random.Random(" ".join(map(str, seed)))
        self._keys = [draw.getrandbits(64) for _ in range(_ROUNDS)]
        self._half = max(1, ((length - 1).bit_length() + 1) // 2)

    def _at(self, i: int) -> int:
        half = self._half
        mask = (1 << half) - 1
        while True:
            left, right = i >> half, i & mask
            for key in self._keys:
                left, right = right, left ^ (_mixed(right ^ key) & mask)
            i = left << half | right
            if i < self._length:
                return i


def _mixed(x: int) -> int:
    """A 64-bit number whose every bit depends on every bit of `x` (the last step of splitmix64)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31


class Rest(_Numbers):
    """The numbers `begin` to `end` - 1 without those that are `held` out (ascending), in order."""

    def __init__(self, begin: int, end: int, held: Sequence[int]) -> None:
        within = [i for i in held if begin <= i < end]
        super().__init__(end - begin - len(within))
        self._begin = begin
        # How many of the rest come before each of the held ones.
        self._before = [at - begin - number for number, at in enumerate(within)]

    def _at(self, i: int) -> int:
        return self._begin + i + bisect_right(self._before, i)


class Repeated(_Numbers):
    """Some numbers as often as `weight` says; of a fraction, as many once more, drawn by `seed`."""

    def __init__(self, numbers: Sequence[int], weight: float, *seed: object) -> None:
        self._numbers = numbers
        self._whole = int(weight) * len(numbers)
        self._drawn = Shuffle(len(numbers), *seed)
        super().__init__(self._whole + round((weight - int(weight)) * len(numbers)))

    def _at(self, i: int) -> int:
        if i < self._whole:
            return self._numbers[i % len(self._numbers)]
        return self._numbers[self._drawn[i - self._whole]]


class Joined(_Numbers):
    """Several sequences of numbers, one after the other."""

    def __init__(self, parts: Sequence[Sequence[int]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends: list[int] = []
        for part in self._parts:
            self._ends.append(len(part) + (self._ends[-1] if self._ends else 0))
        super().__init__(self._ends[-1] if self._ends else 0)

    def _at(self, i: int) -> int:
        part = bisect_right(self._ends, i)
        return self._parts[part][i - (self._ends[part - 1] if part else 0)]
