"""Characters that a vocabulary spells in bytes, counted in arrays of ids."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes of the longest UTF-8 character.
LONGEST = 4

_CODE_POINTS = 0x110000
_NEWLINE = 0x0A
#: For characters of 1 to 4 bytes: the bits of the first byte that mark the length, their value, the payload.
_LEADS = ((0x80, 0x00, 0x7F), (0xE0, 0xC0, 0x1F), (0xF0, 0xE0, 0x0F), (0xF8, 0xF0, 0x07))


class ByteCharacters:
    """Counts the characters that byte tokens spell; the memory does not depend on their number."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._byte_of: NDArray[np.int16] = np.full(len(pieces), -1, np.int16)
        for id, piece in enumerate(pieces):
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                self._byte_of[id] = int(piece[3:5], 16)
        self.byte_ids: NDArray[np.intp] = np.flatnonzero(self._byte_of >= 0)
        """The ids of byte tokens."""
        newlines = np.flatnonzero(self._byte_of == _NEWLINE)
        self.newline = int(newlines[0]) if len(newlines) else None
        """The id of the byte 0x0A."""
        self._counts: NDArray[np.int64] = np.zeros(_CODE_POINTS, np.int64)

    def count(self, ids: NDArray[Any], starting: int) -> None:
        """Count the characters that start in the first `starting` of `ids`; the rest may end the last."""
        byte = self._byte_of[ids]
        places = np.flatnonzero(byte[:starting] >= 0)
        byte = np.concatenate([byte, np.full(LONGEST, -1, np.int16)])
        for length, (mask, lead, payload) in enumerate(_LEADS, 1):
            begins = places[byte[places] & mask == lead]
            code = (byte[begins] & payload).astype(np.int64)
            whole: NDArray[np.bool_] = np.ones(len(begins), bool)
            for offset in range(1, length):
                following = byte[begins + offset]
                whole &= (following >= 0) & (following & 0xC0 == 0x80)
                code = code << 6 | following & 0x3F
            whole &= code < _CODE_POINTS
            found, numbers = np.unique(code[whole], return_counts=True)
            self._counts[found] += numbers

    def found(self) -> list[tuple[str, int]]:
        """The characters without newlines, and how often they were found, most frequent first."""
        codes = np.flatnonzero(self._counts)
        order = codes[np.argsort(-self._counts[codes], kind="stable")]
        return [(chr(code), int(self._counts[code])) for code in order.tolist() if code != _NEWLINE]


def visible(text: str) -> str:
    """The text with white space, control and unassigned characters written as code points."""
    shown = (
        letter if unicodedata.category(letter)[0] not in "CZ" else f"U+{ord(letter):04X}" for letter in text
    )
    return "".join(shown)
