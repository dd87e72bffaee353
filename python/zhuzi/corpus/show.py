"""One document of a corpus, decoded, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi._show import Report, count
from zhuzi.corpus.dataset import Corpus
from zhuzi.errors import MismatchError
from zhuzi.tokenizer import Tokenizer

#: Characters of a document that its `repr` shows.
_SHOWN = 40


@dataclass(frozen=True, repr=False)
class ShownDocument(Report):
    """A document of a corpus."""

    number: int
    ids: list[int]
    text: str
    shard: str
    source: str
    """The file it came from."""
    start: int
    """Where the range of the file that holds it starts: bytes of the unpacked file, or rows of parquet."""
    end: int
    place: int
    """Its number, from 0, among the documents that were kept of this range."""

    def _headline(self) -> str:
        begin = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        return f"{self.number:,} of {self.shard}, {count(len(self.ids), 'token')}: {begin!r}"


@dataclass(frozen=True)
class DocumentOrigin:
    """Where a document of a corpus came from."""

    path: Path
    """The file."""
    offset: int
    """Where its record starts: bytes of the unpacked file, or rows of parquet."""
    line: int | None
    """The line, from 1, on which its record starts; none in parquet."""


def locate_document(
    corpus: str | os.PathLike[str], number: int, *, progress: Callable[[int], object] | None = None
) -> DocumentOrigin:
    """The place in its file at which document `number` (from 0) of a corpus begins.

    The manifest names a range of the file, which is read again up to the document: about a second, but of a
    compressed file everything before the document. `progress(bytes)` is called a few times per second with
    the unpacked bytes read. The input must be unchanged since it was encoded.

    Raises:
        ValueError: `number` is outside the corpus.
        InputError: the input has changed or was a pipe, or the plan is gone.
        OSError: the input is not there.
    """
    path, offset, line = _core.locate_document(corpus, number, progress)
    return DocumentOrigin(path, offset, line)


def show_document(
    corpus: str | os.PathLike[str], tokenizer: str | os.PathLike[str] | Tokenizer, number: int
) -> ShownDocument:
    """Document `number` (from 0) of a corpus.

    Raises:
        IndexError: `number` is outside the corpus.
        MismatchError: the corpus was encoded with another tokenizer.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    opened = Corpus(Path(corpus))
    if opened.tokenizer_fingerprint != tokenizer.fingerprint:
        raise MismatchError(f"{opened.path}: encoded by another tokenizer; name the one it was made with")
    ids = opened[number].tolist()
    manifest = opened.manifest()
    before = 0
    for shard in manifest["shards"]:
        for part in shard["inputs"]:
            if number < before + part["documents"]:
                source = manifest["sources"][part["source"]]["path"]
                place = number - before
                text = tokenizer.decode(ids)
                return ShownDocument(
                    number, ids, text, shard["name"], source, part["start"], part["end"], place
                )
            before += part["documents"]
    raise MismatchError(f"{opened.path}: the manifest counts {before} documents; encode the corpus again")
