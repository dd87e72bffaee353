"""Texts that several tests read."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece

import zhuzi


def require_same_offsets(
    tokenizer: zhuzi.Tokenizer, peer: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    """Ids and offsets of a text are those of sentencepiece's `proto` output."""
    # sentencepiece counts bytes of UTF-8.
    sizes = itertools.accumulate((len(character.encode()) for character in text), initial=0)
    points = {byte: i for i, byte in enumerate(sizes)}
    pieces = peer.encode(text, return_type="proto").pieces
    wanted = [(piece.id, (points[piece.begin], points[piece.end])) for piece in pieces]
    got = tokenizer.encode_with_offsets(text)
    assert list(zip(got.ids, got.offsets, strict=True)) == wanted, text[:200]


#: Texts on which tokenizers tend to differ.
HARD_TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\t\r\n",
    "a",
    "中",
    " 你 好  世界   ",
    "▁▁a▁b",
    "</s><s><unk><0x0A>[PAD]",
    "全角１２３，半角123。",
    "繁體字與简体字",
    "emoji 😀👨‍👩‍👧 和 𠮷野家 𝒜",
    "\x00nul\x00",
    "\ufffd\ufeff",
    "def f(x):\n    return x ** 2  # 平方",
    "https://example.com/路径?q=1&r=%E4%B8%AD",
    "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。",
    "ﬁ ① ㍿ ｱｲｳ é é",
    "的" * 300,
    "ab" * 300,
    "1234567890" * 20,
]


def reference_corpora(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, documents) of each reference corpus; all text is kept as it is."""
    zstandard = pytest.importorskip("zstandard")
    for path in sorted((folder / "corpora").glob("*.zst")):
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            text = io.TextIOWrapper(stream, "utf-8", newline="\n").read()
        if path.name.endswith(".jsonl.zst"):
            yield path.name, [json.loads(line)["text"] for line in text.splitlines() if line]
        else:
            yield path.name, text.split("\n\n\n" if "novels" in path.name else "\n")
