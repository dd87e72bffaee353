"""The text a vocabulary is trained on: a sample in bounded memory."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate

#: Longest line given to SentencePiece, in bytes of UTF-8 (1,000 Chinese characters). It silently drops longer
#: lines than its limit, and its unigram trainer fails on some 100,000 characters (a probability underflows).
LINE_BYTES = 3000

#: Bytes of text to train on by default: training needs well below 4 GB of memory.
SAMPLE_BYTES = 150_000_000
#: Fewer bytes give no vocabulary; SentencePiece counts positions in 31 bits, too few for more.
SAMPLE_RANGE = (100_000, 2_000_000_000)

#: A character that SentencePiece reserves: it drops every line that contains it.
RESERVED = "\u2585"
_RESERVED = RESERVED.encode()

# What its normaliser removes or takes for a space.
_NOTHING = dict.fromkeys([*map(ord, "\u2581\u2585\ufeff\ufffd"), *range(0x20), 0x7F], " ")

_SENTENCE_ENDS = tuple(mark.encode() for mark in ("。", "！", "？", "…", "；", ". ", "! ", "? "))
_OTHER_ENDS = tuple(mark.encode() for mark in (" ", "\t", "\u3000", "，", "、"))


class Sample:
    """Documents up to `limit` bytes; beyond that, a random sample in which every byte is equally likely.

    Documents are split into parts of whole lines, at most `LINE_BYTES` long, and each part draws a random
    number. The parts with the lowest numbers are kept, as many as fit, in the order of the input, so that a
    sample depends only on the documents and the seed, and a document's position does not matter. Memory: at
    most a quarter more than `limit`, and 24 bytes per part.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self.documents = 0
        self.characters = 0
        self.bytes = 0
        self.cut_lines = 0
        self.reserved = 0
        self.blank = True
        self.used_documents = 0
        self.used_characters = 0
        self.used_bytes = 0
        self._draw = random.Random(seed).random
        self._below = 1.0
        self._text = bytearray()
        self._sizes = array("I")
        self._draws = array("d")
        self._owners = array("Q")

    def add(self, document: str) -> None:
        """Offer a document to the sample."""
        self.documents += 1
        self.characters += len(document)
        self.blank = self.blank and not document.translate(_NOTHING).strip()
        data = document.encode()
        self.bytes += len(data)
        if RESERVED in document:
            self.reserved += document.count(RESERVED)
            data = document.replace(RESERVED, " ").encode()
        if len(data) <= LINE_BYTES:
            self._offer(data)
        else:
            for part in self._parts(data):
                self._offer(part)

    def add_all(self, documents: Sequence[str]) -> None:
        """Offer documents one after the other: as `add` does it, and faster for many short ones."""
        parts = [document.encode() for document in documents]
        sizes = list(map(len, parts))
        data = b"".join(parts)
        if (
            self._below < 1
            or max(sizes, default=0) > LINE_BYTES
            or 0 in sizes
            or len(self._text) + len(data) > self.limit * 5 // 4
            or _RESERVED in data
        ):
            for document in documents:
                self.add(document)
            return
        self.blank = self.blank and all(not text.translate(_NOTHING).strip() for text in documents)
        self._text += data
        self._sizes.extend(sizes)
        self._draws.extend(self._draw() for _ in parts)
        self._owners.extend(range(self.documents + 1, self.documents + len(parts) + 1))
        self.documents += len(parts)
        self.characters += sum(map(len, documents))
        self.bytes += len(data)

    def close(self) -> None:
        """Cut the sample down to its limit and count it; nothing can be added from here on."""
        self._shrink()
        if self._below == 1.0:  # all of it: newlines at the seams and empty documents count as well
            self.used_documents, self.used_characters = self.documents, self.characters
            self.used_bytes = self.bytes
            return
        self.used_documents = len(set(self._owners))
        self.used_characters = sum(len(str(part, "utf-8")) for part in self._views())
        self.used_bytes = len(self._text)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out so far."""
        return self._below == 1.0

    @property
    def held_bytes(self) -> int:
        """Bytes of the parts that it holds now."""
        return len(self._text)

    def since(self, parts: int, size: int) -> tuple[bytes, array[int]]:
        """The parts after the first `parts`, which have `size` bytes: joined, and their sizes."""
        return bytes(memoryview(self._text)[size:]), self._sizes[parts:]

    def give(self) -> tuple[bytearray, array[int]]:
        """The parts joined in the order of the input, and their sizes; the sample no longer holds them."""
        text, sizes = self._text, self._sizes
        self._text, self._sizes, self._draws, self._owners = bytearray(), array("I"), array("d"), array("Q")
        return text, sizes

    def take(self) -> Iterator[memoryview]:
        """The parts in the order of the input, each of whole lines; at the end the memory is free again."""
        yield from self._views()
        self._text, self._sizes, self._draws, self._owners = bytearray(), array("I"), array("d"), array("Q")

    def _views(self) -> Iterator[memoryview]:
        end = 0
        with memoryview(self._text) as text:
            for size in self._sizes:
                with text[end : end + size] as part:
                    yield part
                end += size

    def _offer(self, part: bytes) -> None:
        draw = self._draw()
        if draw >= self._below or not part:
            return
        self._text += part
        self._sizes.append(len(part))
        self._draws.append(draw)
        self._owners.append(self.documents)
        if len(self._text) > self.limit * 5 // 4:
            self._shrink()

    def _shrink(self) -> None:
        """Keep the parts with the lowest draws, as many as fit."""
        if len(self._text) <= self.limit:
            return
        order = sorted(range(len(self._draws)), key=self._draws.__getitem__)
        kept = 0
        for index, size in enumerate(accumulate(self._sizes[i] for i in order)):
            if size > self.limit:
                kept = index
                break
        self._below = self._draws[order[kept]]
        text, begin, end = memoryview(self._text), 0, 0
        sizes, draws, owners = array("I"), array("d"), array("Q")
        for size, draw, owner in zip(self._sizes, self._draws, self._owners, strict=True):
            if draw < self._below:
                text[end : end + size] = text[begin : begin + size]
                end += size
                sizes.append(size)
                draws.append(draw)
                owners.append(owner)
            begin += size
        text.release()
        del self._text[end:]
        self._sizes, self._draws, self._owners = sizes, draws, owners

    def _parts(self, data: bytes) -> Iterator[bytes]:
        """A long document in parts of whole lines; lines that are too long are cut."""
        begin = 0
        while len(data) - begin > LINE_BYTES:
            end = data.rfind(b"\n", begin, begin + LINE_BYTES + 1)
            if end >= 0:
                yield data[begin:end]
                begin = end + 1
                continue
            stop = data.find(b"\n", begin)
            stop = len(data) if stop < 0 else stop
            self.cut_lines += 1
            while stop - begin > LINE_BYTES:
                end = _cut(data, begin, begin + LINE_BYTES)
                yield data[begin:end]
                begin = end
            yield data[begin:stop]
            begin = stop + 1
        yield data[begin:]


def _cut(data: bytes, begin: int, limit: int) -> int:
    """Where to cut before `limit`: after a sentence or a word in the second half, or else a character."""
    for marks in (_SENTENCE_ENDS, _OTHER_ENDS):
        found = max(data.rfind(mark, begin, limit) + len(mark) for mark in marks)
        if found > (begin + limit) // 2:
            return found
    while data[limit] & 0xC0 == 0x80:
        limit -= 1
    return limit
