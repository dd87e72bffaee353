"""Models of random pieces, made to be hard: ties, -0.0, merges out of reach, pieces of every kind."""

from __future__ import annotations

import io
import random
from functools import cache

import sentencepiece

from protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, field, fields, number, piece

Piece = tuple[str, float, int]

ALPHABETS = (
    "ab",
    "ab▁c",
    "中国人▁",
    "a▁中é😀",
    "😀😁𠀀a▁\ufffd\uffffß",
    "abcd▁01中国\n",
    "Aa\u0301\u3000ｱ゛か゛①▁",
)
KINDS = (
    (NORMAL,),
    (NORMAL, NORMAL, USER_DEFINED),
    (NORMAL, NORMAL, CONTROL),
    (NORMAL, NORMAL, UNUSED),
    (NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED, CONTROL),
)
SCORES = ((0.0,), (0.0, -0.0), (0.0, 0.0, -1.0, -2.0), (0.0, -0.0, -1.0, -1e9, 5.0), ())


def model(
    pieces: list[Piece], *, byte_fallback: bool, dummy_prefix: bool, trims: bool, charsmap: bytes
) -> bytes:
    """A BPE model file of these pieces, with `<unk>` (and the byte pieces) before them."""
    fixed: list[Piece] = [("<unk>", 0.0, UNKNOWN)]
    if byte_fallback:
        fixed += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    out = b""
    for text, score, kind in fixed + pieces:
        out += piece(text, score, kind)
    out += field(2, number(3, 2) + number(35, byte_fallback))
    rules = field(2, charsmap) if charsmap else b""
    return out + field(3, rules + number(3, dummy_prefix) + number(4, trims) + number(5, 1))


@cache
def nmt_nfkc() -> bytes:
    """The compiled character map of nmt_nfkc, out of a model trained on the spot."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 20),
        model_writer=trained,
        model_type="bpe",
        vocab_size=12,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    normalizer = next(content for tag, content in fields(trained.getvalue()) if tag == 3)
    return next(content for tag, content in fields(normalizer) if tag == 2)


def random_pieces(rng: random.Random, alphabet: str) -> list[Piece]:
    kinds, scores = rng.choice(KINDS), rng.choice(SCORES)
    pieces: dict[str, Piece] = {}
    for i in range(rng.randint(2, 45)):
        if pieces and rng.random() < 0.3:
            text = rng.choice(list(pieces)) + rng.choice(list(pieces))
        else:
            text = "".join(rng.choices(alphabet, k=rng.choice([1, rng.randint(1, 8)])))
        if text not in pieces and len(text) <= 40:
            pieces[text] = (text, rng.choice(scores) if scores else -float(i), rng.choice(kinds))
    return list(pieces.values())
