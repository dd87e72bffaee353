"""One document of a corpus, decoded, and where it came from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from zhuzi.errors import MismatchError
from zhuzi.shards import Corpus
from zhuzi.tokenizer import Tokenizer


@dataclass(frozen=True)
class ShownDocument:
    """A document of a corpus."""

    number: int
    ids: list[int]
    text: str
    shard: str
    source: str
    """The file it came from."""
    start: int
    """Where the stretch of the file that holds it starts: bytes of the unpacked file, or rows of parquet."""
    end: int
    place: int
    """Its number, from 0, among the documents that were kept of this stretch."""


def show_document(
    corpus: str | os.PathLike[str], tokenizer: str | os.PathLike[str] | Tokenizer, number: int
) -> ShownDocument:
    """Document `number` (from 0) of a corpus.

    Raises `IndexError` outside the corpus, `MismatchError` if another tokenizer made it.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.from_dir(tokenizer)
    opened = Corpus(Path(corpus))
    if opened.tokenizer_fingerprint != tokenizer.fingerprint:
        raise MismatchError(f"{opened.path}: encoded by another tokenizer; name the one it was made with")
    ids = opened[number].tolist()
    manifest = json.loads((opened.path / "manifest.json").read_bytes())
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
