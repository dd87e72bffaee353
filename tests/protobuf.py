"""SentencePiece model files by hand: the few parts of protobuf that they need."""

from __future__ import annotations

import struct
from collections.abc import Iterator

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(tag: int, content: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(content)) + content


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def piece(text: str, score: float, kind: int) -> bytes:
    """A piece of a model. Messages laid end to end are read as one, so it may be appended to a model file."""
    score_field = bytes([2 << 3 | 5]) + struct.pack("<f", score)
    return field(1, field(1, text.encode()) + score_field + number(3, kind))


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that hold bytes."""
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = read()
        if key & 7 == 2:
            size = read()
            yield key >> 3, message[at : at + size]
            at += size
        elif key & 7 == 5:
            at += 4
        else:
            read()
