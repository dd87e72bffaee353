"""Merging a donor into a base."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sentencepiece

import zhuzi
from zhuzi import Tokenizer
from zhuzi.errors import ModelFileError, OutputExistsError

PAPER_SHA256 = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"


def test_the_papers_vocabulary_comes_out_to_the_byte(reference: Path, tmp_path: Path) -> None:
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    made = zhuzi.merge_vocab(base, donor, tmp_path / "plain")
    padded = zhuzi.merge_vocab(base, donor, tmp_path / "padded", add_tokens=["[PAD]"])
    assert (made.vocab_size, made.appended, made.shared) == (49_953, 17_953, 2_047)
    for folder in ("plain", "padded"):
        written = (tmp_path / folder / "tokenizer.model").read_bytes()
        assert hashlib.sha256(written).hexdigest() == PAPER_SHA256
    tokenizer = Tokenizer.from_dir(padded.folder)
    assert tokenizer.vocab_size == 49_954
    assert tokenizer.token_to_id("[PAD]") == 49_953
    example = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"
    assert len(Tokenizer.from_sentencepiece(base).encode(example)) == 35
    assert len(tokenizer.encode(example)) == 16


def test_a_merge_appends_what_the_base_lacks(base_model_file: Path, donor: Path, merged: Path) -> None:
    base, given, made = (
        sentencepiece.SentencePieceProcessor(model_file=str(path))
        for path in (base_model_file, donor, merged / "tokenizer.model")
    )
    old = [base.id_to_piece(i) for i in range(base.get_piece_size())]
    lacking = [p for p in map(given.id_to_piece, range(given.get_piece_size())) if p not in set(old)]
    assert [made.id_to_piece(i) for i in range(made.get_piece_size())] == old + lacking
    assert {made.get_score(i) for i in range(len(old), made.get_piece_size())} == {0.0}
    assert all(made.get_score(i) == base.get_score(i) for i in range(len(old)))


def test_unknown_fields_survive_a_merge(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    extension = b"\xc2\x0c\x05hello"  # field 200, five bytes: SentencePiece's range for extensions
    changed = tmp_path / "base.model"
    changed.write_bytes(base_model_file.read_bytes() + extension)
    made = zhuzi.merge_vocab(changed, donor, tmp_path / "out")
    assert (made.folder / "tokenizer.model").read_bytes().endswith(extension)


def test_merges_that_cannot_be(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelFileError, match="already has every piece"):
        zhuzi.merge_vocab(base_model_file, base_model_file, out)
    with pytest.raises(ModelFileError, match="unigram model cannot be the base"):
        zhuzi.merge_vocab(donor, base_model_file, out)
    with pytest.raises(ValueError, match="added token `▁the`"):
        zhuzi.merge_vocab(base_model_file, donor, out, add_tokens=["▁the"])
    with pytest.raises(ValueError, match="policy"):
        zhuzi.merge_vocab(base_model_file, donor, out, policy="best")
    assert list(tmp_path.iterdir()) == [], "a failed merge leaves nothing behind"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        zhuzi.merge_vocab(base_model_file, donor, out)
    with pytest.raises(OutputExistsError, match="not written by zhuzi"):
        zhuzi.merge_vocab(base_model_file, donor, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "keep me"
    ours = zhuzi.merge_vocab(base_model_file, donor, tmp_path / "ours", add_tokens=["[PAD]"]).folder
    zhuzi.merge_vocab(base_model_file, donor, ours, overwrite=True)
    assert not (ours / "added_tokens.json").exists(), "never half-mixed"
