"""What a run is trained on, as run.json and the record of its result name it: each corpus, each source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zhuzi.corpus.dataset import Corpus
from zhuzi.record.disk import digest_of_files
from zhuzi.record.remembered import remembered_sha256
from zhuzi.train.sources import SourceReader


@dataclass(frozen=True)
class DataOrigin:
    """The data of a run."""

    fingerprint: str
    """sha256 (hex) of all of them, their order, weights, and how they are read."""
    sources: tuple[dict[str, Any], ...]
    """Path or files, weight and fingerprint of each, and what else identifies it."""

    @property
    def facts(self) -> dict[str, Any]:
        """The keys of a record."""
        return {"data": self.fingerprint, "trained_on": list(self.sources)}


def of_corpora(corpora: Sequence[Corpus], weights: Sequence[float]) -> DataOrigin:
    """Encoded corpora with their weights; reads manifests and indexes."""
    sources = [
        {
            "path": str(corpus.path),
            "weight": weight,
            "fingerprint": corpus.fingerprint(),
            "documents": len(corpus),
            "tokens": corpus.tokens,
            "tokenizer": corpus.tokenizer_fingerprint,
        }
        for corpus, weight in zip(corpora, weights, strict=True)
    ]
    whole = str(sources[0]["fingerprint"])
    if len(sources) > 1 or weights[0] != 1:
        told = [f"{source['fingerprint']} {source['weight']!r}" for source in sources]
        whole = hashlib.sha256("\n".join(told).encode()).hexdigest()
    return DataOrigin(whole, tuple(sources))


def of_instructions(readers: Sequence[SourceReader], template: str = "") -> DataOrigin:
    """Instruction data; reads every byte of the files, large ones once.

    `template` is the source of one that is not the published template.
    """
    digests = {file: remembered_sha256(file) for reader in readers for file in reader.files}
    settings = [[len(r.files), r.source.weight, sorted(r.source.fields.items())] for r in readers]
    whole = digest_of_files((file for reader in readers for file in reader.files), digests.__getitem__)
    if template or any(weight != 1 or fields for _, weight, fields in settings):
        whole = hashlib.sha256(f"{whole}{json.dumps(settings)}{template}".encode()).hexdigest()
    sources = tuple(
        {
            "files": [str(file) for file in reader.files],
            "weight": reader.source.weight,
            **({"map": dict(reader.source.fields)} if reader.source.fields else {}),
            "fingerprint": digest_of_files(reader.files, digests.__getitem__),
        }
        for reader in readers
    )
    return DataOrigin(whole, sources)


def in_words(trained_on: object) -> str:
    """The data that a record names, for one line; nothing if it is of an earlier version."""
    told = []
    for source in trained_on if isinstance(trained_on, list | tuple) else ():
        if not isinstance(source, dict):
            continue
        files = source.get("files")
        name = str(source.get("path") or (files[0] if isinstance(files, list) and files else "?"))
        more = f" and {len(files) - 1} more" if isinstance(files, list) and len(files) > 1 else ""
        weight = "" if source.get("weight", 1) == 1 else f", weight {source['weight']:g}"
        told.append(f"{name}{more} ({str(source.get('fingerprint'))[:12]}{weight})")
    return ", ".join(told)
