"""How alike two instructions are: ROUGE-L, as self-instruct measures it, without comparing every pair.

ROUGE-L (Lin 2004) is the F measure of the longest common subsequence of two texts' tokens: 2 LCS / (m + n).
Self-instruct (Wang et al. 2022, arXiv 2212.10560) keeps an instruction if it is at most 0.7 with every
earlier one. Tokens are words of Latin letters and digits, and single characters of all other scripts.

Up to a number of instructions the search is exact. Beyond it, MinHash (Broder 1997) names the candidates, and
ROUGE-L decides among those.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

_TOKEN = re.compile(r"[a-z0-9]+|[^\W_a-z0-9]")

# A ROUGE-L above 0.7 means a Jaccard similarity of the tokens above 0.35 / 0.65 = 0.538: of such pairs 99.9 %
# share one of 42 bands of 3 rows.
_BANDS, _ROWS = 42, 3
_PRIME = (1 << 31) - 1  # products of two hashes below it fit 64 bits


def tokens_of(text: str) -> list[str]:
    """The tokens that are compared; full and half width, large and small letters are the same."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L (F measure) of two lists of tokens, 0 to 1."""
    return 2 * _common(_places(a), len(a), b) / (len(a) + len(b)) if a and b else 0.0


def _places(tokens: Sequence[str]) -> dict[str, int]:
    """For each token a number with a bit for each place where it stands."""
    places: dict[str, int] = {}
    for at, token in enumerate(tokens):
        places[token] = places.get(token, 0) | 1 << at
    return places


def _common(places: dict[str, int], length: int, tokens: Iterable[str]) -> int:
    """Length of the longest common subsequence, all places of a token at once (Hyyrö 2004)."""
    mask = (1 << length) - 1
    free = mask
    for token in tokens:
        if at := places.get(token):
            met = free & at
            free = ((free + met) | (free - met)) & mask
    return length - free.bit_count()


class Similar:
    """Instructions by which a new one is judged.

    Args:
        most: an instruction is alike if its ROUGE-L with an earlier one is more than this (0 to 1).
        exact: number of instructions up to which the search is exact.
    """

    def __init__(self, most: float = 0.7, exact: int = 10_000) -> None:
        self._most, self._exact = most, exact
        self._tokens: list[list[str]] = []
        self._sets: list[frozenset[str]] = []
        self._holders: defaultdict[str, list[int]] | None = defaultdict(list)
        self._min_hash: _MinHash | None = None

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, tokens: list[str]) -> int | None:
        """The number of the first instruction that is too much like these tokens; None if none is."""
        m, places, own = len(tokens), _places(tokens), frozenset(tokens)
        for at in self._candidates(tokens):
            other = self._tokens[at]
            n = len(other)
            needed = self._most * (m + n) / 2
            # No more tokens can be common than the shorter holds, or than both hold.
            if min(m, n) <= needed:
                continue
            shared = len(own & self._sets[at]) + min(m - len(own), n - len(self._sets[at]))
            if shared > needed and _common(places, m, other) > needed:
                return at
        return None

    def add(self, tokens: list[str]) -> None:
        """Remember an instruction."""
        number = len(self._tokens)
        self._tokens.append(tokens)
        self._sets.append(frozenset(tokens))
        if self._holders is not None:
            for token in self._sets[-1]:
                self._holders[token].append(number)
            if number + 1 > self._exact:
                self._holders = None
                self._min_hash = _MinHash()
                for at, held in enumerate(self._tokens):
                    self._min_hash.add(at, held)
        elif self._min_hash is not None:
            self._min_hash.add(number, tokens)

    def _candidates(self, tokens: list[str]) -> list[int]:
        """Instructions that may be alike: all that are, as long as the search is exact."""
        holders = self._holders
        if holders is None:
            assert self._min_hash is not None
            return self._min_hash.candidates(tokens)
        # One that is alike shares so many of the m tokens that it holds one of any m - shared + 1: the
        # rarest are looked up.
        m = len(tokens)
        shared = int(self._most * m / (2 - self._most) - 1e-9) + 1
        rarest = sorted(tokens, key=lambda token: len(holders.get(token, ())))
        found: set[int] = set()
        for token in set(rarest[: max(m - shared + 1, 0)]):
            found.update(holders.get(token, ()))
        return sorted(found)


class _MinHash:
    """Locality-sensitive hashing of sets of tokens, a token that comes again counting as another."""

    def __init__(self) -> None:
        import numpy as np

        draw = np.random.Generator(np.random.PCG64(2212))
        shape = (_BANDS * _ROWS, 1)
        self._factors: Any = draw.integers(1, _PRIME, shape, dtype=np.uint64)
        self._terms: Any = draw.integers(0, _PRIME, shape, dtype=np.uint64)
        self._buckets: defaultdict[bytes, list[int]] = defaultdict(list)

    def add(self, number: int, tokens: list[str]) -> None:
        for bucket in self._bands(tokens):
            self._buckets[bucket].append(number)

    def candidates(self, tokens: list[str]) -> list[int]:
        found: set[int] = set()
        for bucket in self._bands(tokens):
            found.update(self._buckets.get(bucket, ()))
        return sorted(found)

    def _bands(self, tokens: list[str]) -> list[bytes]:
        import numpy as np

        if not tokens:
            return []
        seen: Counter[str] = Counter()
        words = []
        for token in tokens:
            words.append(f"{token} {seen[token]}".encode())
            seen[token] += 1
        hashes = np.fromiter((zlib.crc32(word) % _PRIME for word in words), np.uint64, len(words))
        least = ((self._factors * hashes + self._terms) % np.uint64(_PRIME)).min(axis=1).astype("<u8")
        return [
            band.to_bytes(1, "little") + least[band * _ROWS : (band + 1) * _ROWS].tobytes()
            for band in range(_BANDS)
        ]
