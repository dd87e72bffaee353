"""Pieces that no text becomes: `sentencepiece` never writes a dead one, and writes each of the others."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import sentencepiece

import zhuzi
from protobuf import NORMAL, UNUSED, USER_DEFINED
from random_models import ALPHABETS, Piece, model, nmt_nfkc, random_pieces
from zhuzi.errors import ModelFileError
from zhuzi.vocab import DeadPiece, dead_pieces

#: Characters that no piece of these tests holds and no normaliser changes.
STRANGER = "\uebad"


def normal_ids(peer: sentencepiece.SentencePieceProcessor) -> list[int]:
    return [
        id
        for id in range(peer.get_piece_size())
        if not (peer.is_control(id) or peer.is_unknown(id) or peer.is_byte(id) or peer.is_unused(id))
    ]


def test_the_published_merge_has_345_new_and_194_old_dead_pieces(reference: Path, tmp_path: Path) -> None:
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    folder = zhuzi.merge_vocab(base, donor, tmp_path / "out").folder
    found = dead_pieces(folder)
    assert [sum(piece.id >= 32_000 for piece in found), sum(piece.id < 32_000 for piece in found)] == [
        345,
        194,
    ]
    assert DeadPiece(33_598, "意大利", ("意", "大", "利"), (31_474, 30_257, 31_107)) in found
    assert {"▁people", "▁create"} <= {piece.piece for piece in found}
    assert dead_pieces(base) == ()
    require_right(folder / "tokenizer.model", {piece.id for piece in found})


def test_chinese_llama_2_has_657_new_and_one_old(reference: Path) -> None:
    path = reference / "tokenizers" / "chinese-llama-2-55296.model"
    found = dead_pieces(path)
    assert [sum(piece.id >= 32_000 for piece in found), sum(piece.id < 32_000 for piece in found)] == [657, 1]
    assert "<pad>" in {piece.piece for piece in found}
    require_right(path, {piece.id for piece in found})


def require_right(path: Path, dead: set[int]) -> None:
    """sentencepiece writes exactly the others, each between two characters that no piece holds."""
    peer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for id in normal_ids(peer):
        text = peer.id_to_piece(id).replace("▁", " ")
        assert (id in peer.encode(f"{STRANGER}{text}{STRANGER}")) == (id not in dead), text


@pytest.mark.parametrize("seed", range(6))
def test_random_models(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        alphabet = rng.choice(ALPHABETS)
        pieces = random_pieces(rng, alphabet)
        made = model(
            pieces,
            byte_fallback=rng.random() < 0.5,
            dummy_prefix=rng.random() < 0.5,
            trims=rng.random() < 0.5,
            charsmap=nmt_nfkc() if rng.random() < 0.4 else b"",
        )
        peer = sentencepiece.SentencePieceProcessor(model_proto=made)
        dead = {piece.id for piece in dead_pieces(made)}
        kinds = {text: kind for text, _, kind in pieces}
        normal = {id for id in normal_ids(peer) if kinds.get(peer.id_to_piece(id)) == NORMAL}
        assert dead <= normal
        texts = [text for text, _, _ in pieces]
        witnesses = [f"{STRANGER}{text}{STRANGER}" for text in texts]
        witnesses += [witness.replace("▁", " ") for witness in witnesses]
        for _ in range(150):
            parts = rng.choices([*texts, *alphabet, " ", STRANGER], k=rng.randint(1, 8))
            witnesses.append("".join(parts))
        seen = {id for ids in peer.encode(witnesses) for id in ids}
        assert normal - dead <= seen, "each of the others is written"
        assert not dead & seen, "no dead one is"


def test_why_pieces_die() -> None:
    def dead(
        pieces: list[Piece], *, trims: bool = False, charsmap: bytes = b""
    ) -> dict[str, tuple[str, ...]]:
        made = model(pieces, byte_fallback=False, dummy_prefix=True, trims=trims, charsmap=charsmap)
        return {piece.piece: piece.becomes for piece in dead_pieces(made)}

    letters: list[Piece] = [(letter, -9.0, NORMAL) for letter in "abcé▁"]
    # `bc` first, after which `a` has nothing to merge with.
    assert dead([*letters, ("ab", -2, NORMAL), ("bc", -1, NORMAL), ("abc", -3, NORMAL)]) == {}
    assert dead([*letters, ("bc", -1, NORMAL), ("abca", -3, NORMAL)]) == {"abca": ("a", "bc", "a")}
    # A user-defined piece is cut out of it, and one longer than it is not.
    assert dead([*letters, ("ab", -1, NORMAL), ("abc", 0, USER_DEFINED)]) == {}
    cut: list[Piece] = [("a", -9, NORMAL), ("b", 0, USER_DEFINED), ("ab", -1, NORMAL)]
    assert dead(cut) == {"ab": ("a", "b")}
    # An unused piece serves as a step.
    assert dead([*letters, ("ab", -1, UNUSED), ("abc", -2, NORMAL)]) == {}
    # The normaliser: white space that is collapsed, unless it is `▁` itself; accents that are composed.
    spaces: list[Piece] = [*letters, ("▁▁", -1, NORMAL)]
    assert dead(spaces) == dead(spaces, trims=True) == {}
    assert dead(spaces, trims=True, charsmap=nmt_nfkc()) == {"▁▁": ("▁",)}
    accent: list[Piece] = [*letters, ("e", -9, NORMAL), ("\u0301", -9, NORMAL), ("e\u0301", -1, NORMAL)]
    assert dead(accent) == {}
    assert dead(accent, charsmap=nmt_nfkc()) == {"e\u0301": ("é",)}
    # A space is never in normalised text.
    assert dead([*letters, ("a b", -1, NORMAL)]) == {"a b": ("a", "▁", "b")}


def test_models_that_cannot_be_judged(donor: Path, base_model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"donor\.model: a unigram model"):
        dead_pieces(donor)
    with pytest.raises(ModelFileError, match=r"holds no tokenizer\.model"):
        dead_pieces(tmp_path)
    with pytest.raises(FileNotFoundError):
        dead_pieces(tmp_path / "none.model")
    (tmp_path / "cut.model").write_bytes(base_model_file.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=r"cut\.model"):
        dead_pieces(tmp_path / "cut.model")
    shutil.copy(base_model_file, tmp_path / "tokenizer.model")
    assert dead_pieces(tmp_path) == dead_pieces((tmp_path / "tokenizer.model").read_bytes()) == ()
