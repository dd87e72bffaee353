"""Random models, made to be hard, give the ids of `sentencepiece`."""

from __future__ import annotations

import random

import pytest
import sentencepiece

import zhuzi
from protobuf import NORMAL
from random_models import ALPHABETS, Piece, model, nmt_nfkc, random_pieces
from texts import require_same_offsets


@pytest.mark.parametrize("seed", range(8))
def test_random_models_give_the_ids_of_sentencepiece(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        alphabet = rng.choice(ALPHABETS)
        made = model(
            random_pieces(rng, alphabet),
            byte_fallback=rng.random() < 0.5,
            dummy_prefix=rng.random() < 0.5,
            trims=rng.random() < 0.5,
            charsmap=nmt_nfkc() if rng.random() < 0.4 else b"",
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
