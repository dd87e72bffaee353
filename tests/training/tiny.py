"""Text, pieces and shards for the tests of this folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protobuf import NORMAL, piece

ENGLISH = """The river rises in the hills and runs slowly through the valley to the sea.
Every morning the baker opened his door, and the smell of bread filled the narrow street.
She wrote a letter to her brother, who had gone to work in a town far to the north.
A good tool does one thing well; a good workman knows which tool to take.
When the rain stopped, children came out to sail paper boats in the gutters.
Numbers 0 1 2 3 4 5 6 7 8 9, and marks like ( ) [ ] { } : ; ' " ! ? - + = / are text as well.
"""
CHINESE = ["人工智能", "机器", "学习", "你好", "世界", "中国", "天", "地", "▁好"]
PROSE = "你好世界。机器学习是人工智能的一部分。中国很大，天很高，地很宽。"


def append_pieces(model: bytes, pieces: Sequence[str]) -> bytes:
    """A SentencePiece model with more pieces, at score 0."""
    return model + b"".join(piece(text, 0.0, NORMAL) for text in pieces)


def write_corpus(
    folder: Path, shards: Sequence[Sequence[Sequence[int]]], *, fingerprint: str, vocab_size: int
) -> None:
    """What `zhuzi corpus encode` writes, by the description of the format."""
    entries = []
    for number, documents in enumerate(shards):
        lengths = np.array([len(d) for d in documents], "<i4")
        offsets = 2 * (np.cumsum(lengths, dtype="<i8") - lengths)
        data = np.concatenate([np.array(d, "<u2") for d in documents]).tobytes() if documents else b""
        header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(documents), len(documents) + 1)
        bounds = np.arange(len(documents) + 1, dtype="<i8")
        name = f"shard-{number:05}"
        (folder / f"{name}.bin").write_bytes(data)
        (folder / f"{name}.idx").write_bytes(
            header + lengths.tobytes() + offsets.astype("<i8").tobytes() + bounds.tobytes()
        )
        entries.append(
            {"name": name, "documents": len(documents), "tokens": len(data) // 2, "bytes": len(data)}
        )
    manifest = {
        "format": 1,
        "tokenizer": {"fingerprint": fingerprint, "vocab_size": vocab_size},
        "dtype": "uint16",
        "eos": True,
        "documents": sum(e["documents"] for e in entries),
        "tokens": sum(e["tokens"] for e in entries),
        "shards": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
