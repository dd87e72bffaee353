"""The reader of encoded corpora, and what it refuses."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import write_corpus

from zhuzi.corpus import Corpus
from zhuzi.errors import InputError

DOCUMENTS = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 65499]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path, [DOCUMENTS[:2], [], DOCUMENTS[2:]], fingerprint="f", vocab_size=65_500)
    return tmp_path


def test_documents_and_flat_tokens(folder: Path) -> None:
    corpus = Corpus(folder)
    flat = [i for document in DOCUMENTS for i in document]
    assert (len(corpus), corpus.tokens, corpus.vocab_size) == (4, 10, 65_500)
    assert [document.tolist() for document in corpus] == DOCUMENTS
    for begin in range(11):
        for end in range(begin, 11):
            assert corpus.slice(begin, end).tolist() == flat[begin:end]
    with pytest.raises(IndexError):
        corpus[4]
    with pytest.raises(IndexError):
        corpus.slice(3, 11)


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def _set_length(folder: Path) -> None:
    index = bytearray((folder / "shard-00000.idx").read_bytes())
    index[34:38] = struct.pack("<i", 4)
    (folder / "shard-00000.idx").write_bytes(index)


def _set_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["shards"][0]["tokens"] = 6
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate("shard-00002.bin"), "shard-00002.bin"),
        (_truncate("shard-00000.idx"), "shard-00000.idx"),
        (_truncate("manifest.json"), "manifest.json"),
        (_set_length, "shard-00000.idx"),
        (_set_manifest, "shard-00000.idx"),
        (lambda folder: (folder / "shard-00000.bin").unlink(), "shard-00000.bin"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "shard-00000.idx").write_bytes(b"MMID"), "shard-00000.idx"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=named):
        Corpus(folder)


def test_fingerprint_follows_the_content(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_corpus(other, [DOCUMENTS], fingerprint="f", vocab_size=65_500)
    assert Corpus(folder).fingerprint() == Corpus(folder).fingerprint() != Corpus(other).fingerprint()


def test_is_memory_mapped(folder: Path) -> None:
    assert isinstance(Corpus(folder).shards[0].data, np.memmap)
