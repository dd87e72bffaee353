"""Random models, made to be hard, give the ids of `sentencepiece`."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece

import zhuzi
from protobuf import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, field, fields, number, piece
from texts import require_same_offsets

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


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("seed", range(8))
def test_random_models_give_the_ids_of_sentencepiece(seed: int, nmt_nfkc: bytes) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        alphabet = rng.choice(ALPHABETS)
        made = model(
            random_pieces(rng, alphabet),
            byte_fallback=rng.random() < 0.5,
            dummy_prefix=rng.random() < 0.5,
            trims=rng.random() < 0.5,
            charsmap=nmt_nfkc if rng.random() < 0.4 else b"",
        )
        reference = sentencepiece.SentencePieceProcessor(model_proto=made)
        tokenizer = zhuzi.Tokenizer.from_sentencepiece(made)
        texts = []
        for _ in range(10):
            length = rng.choice([5, 40, 200, 3000])
            text = "".join(rng.choices(alphabet + " zÿ龘🎉 ", k=rng.randint(0, length)))
            texts.append((text[: rng.randint(1, 9)] * 500)[:length] if rng.random() < 0.3 else text)
        expected = [reference.encode(text) for text in texts]
        assert tokenizer.encode_batch(texts, num_threads=2).tolist() == expected
        assert tokenizer.encode_batch([t.encode() for t in texts], num_threads=1).tolist() == expected
        for text in texts:
            require_same_offsets(tokenizer, reference, text)


def test_strings_of_every_width_are_read_in_place() -> None:
    pieces: list[Piece] = [
        ("▁", -1.0, NORMAL),
        ("a", -2.0, NORMAL),
        ("▁a", -0.5, NORMAL),
        ("中", -3.0, NORMAL),
    ]
    made = model(pieces, byte_fallback=True, dummy_prefix=True, trims=False, charsmap=b"")
    reference = sentencepiece.SentencePieceProcessor(model_proto=made)
    tokenizer = zhuzi.Tokenizer.from_sentencepiece(made)
    for text in ["", "a", "a b", "é a", "中 a", "😀 中 a", "\0a", "a" * 5000, "中a " * 3000, "😀a" * 3000]:
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.encode(text.encode()) == reference.encode(text)


@pytest.mark.parametrize("text", ["a\ud800", "中\udc00", "😀\udfff"])
def test_lone_surrogates_are_an_error(text: str) -> None:
    made = model([("a", 0.0, NORMAL)], byte_fallback=True, dummy_prefix=True, trims=False, charsmap=b"")
    tokenizer = zhuzi.Tokenizer.from_sentencepiece(made)
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode(text)
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode_batch(["a", text, "a"])
