"""Merging a donor into a base."""

from __future__ import annotations

import hashlib
import json
import shutil
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
    with pytest.raises(ValueError, match="added token `[PAD]` is given twice".replace("[", r"\[")):
        zhuzi.merge_vocab(base_model_file, donor, out, add_tokens=["[PAD]", "[PAD]"])
    with pytest.raises(ValueError, match="is empty"):
        zhuzi.merge_vocab(base_model_file, donor, out, add_tokens=[""])
    with pytest.raises(ValueError, match=r"`我们` is a piece of the donor .*donor\.model"):
        zhuzi.merge_vocab(base_model_file, donor, out, add_tokens=["我们"])
    with pytest.raises(ValueError, match="policy"):
        zhuzi.merge_vocab(base_model_file, donor, out, policy="best")
    assert list(tmp_path.iterdir()) == [], "a failed merge leaves nothing behind"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(OutputExistsError, match=r"already holds something; choose another folder$"):
        zhuzi.merge_vocab(base_model_file, donor, out)
    with pytest.raises(OutputExistsError, match="not written by zhuzi"):
        zhuzi.merge_vocab(base_model_file, donor, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "keep me"
    ours = zhuzi.merge_vocab(base_model_file, donor, tmp_path / "ours", add_tokens=["[PAD]"]).folder
    zhuzi.merge_vocab(base_model_file, donor, ours, overwrite=True)
    assert not (ours / "added_tokens.json").exists(), "never half-mixed"


def base_folder(folder: Path, model: Path, tokens: list[str]) -> Path:
    """A folder as a base model's, with tokens beside its SentencePiece model."""
    folder.mkdir()
    shutil.copy(model, folder / "tokenizer.model")
    first = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    ids = {"<s>": 1, **{token: first + i for i, token in enumerate(tokens)}}
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    return folder


def test_tokens_beside_the_base_move_behind_the_new_pieces(
    base_model_file: Path, donor: Path, tmp_path: Path
) -> None:
    base = base_folder(tmp_path / "chatml", base_model_file, ["<|im_end|>", "<|im_start|>"])
    given = base_folder(tmp_path / "donor", donor, ["<extra>"])
    made = zhuzi.merge_vocab(base, given, tmp_path / "out", add_tokens=["[PAD]", "<|im_end|>", "</s>"])
    size = made.base_size + made.appended
    assert made.moved == {"<|im_end|>": (32_000, size), "<|im_start|>": (32_001, size + 1)}
    assert made.notes == ("added tokens of the donor left out, as they are not pieces: <extra>",)
    assert made.already == {"<|im_end|>": size, "</s>": 2}
    record = json.loads((made.folder / "zhuzi.json").read_text())
    assert record["moved_tokens"]["<|im_start|>"] == {"from": 32_001, "to": size + 1}
    tokenizer = Tokenizer.from_dir(made.folder)
    assert tokenizer.added_tokens == ("<|im_end|>", "<|im_start|>", "[PAD]")
    assert tokenizer.vocab_size == made.vocab_size == size + 3
    plain = zhuzi.merge_vocab(base / "tokenizer.model", donor, tmp_path / "plain")
    assert plain.moved == {} and "folder as the base" in plain.notes[0] and "<|im_end|>" in plain.notes[0]
    one, other = ((made.folder / "tokenizer.model"), (plain.folder / "tokenizer.model"))
    assert one.read_bytes() == other.read_bytes()
    assert "moved_tokens" not in json.loads((plain.folder / "zhuzi.json").read_text())


def test_a_base_that_is_no_model_is_named(donor: Path, tmp_path: Path) -> None:
    fast = tmp_path / "llama3" / "tokenizer.json"
    fast.parent.mkdir()
    fast.write_text('{"model": {"type": "BPE"}}')
    for base in (fast, fast.parent):
        with pytest.raises(ModelFileError, match="LLaMA 3 and Qwen"):
            zhuzi.merge_vocab(base, donor, tmp_path / "out")
    shutil.copy(donor, fast.with_name("tokenizer.model"))
    with pytest.raises(ModelFileError, match=r"give .*tokenizer\.model"):
        zhuzi.merge_vocab(fast, donor, tmp_path / "out")
    with pytest.raises(ModelFileError, match=r"holds no tokenizer\.model"):
        zhuzi.merge_vocab(donor, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_symbols_of_a_donor_stay_symbols(
    kind: str, base_model_file: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    symbols = ["<sep>", "[X]", "春天", "the", "<a b>", "[PAD]"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in chinese_texts for line in text.split("\n")),
        model_prefix=str(tmp_path / "donor"), vocab_size=3200, model_type=kind, minloglevel=2,
        pad_id=3, byte_fallback=True, user_defined_symbols=symbols, control_symbols=["<ctl>"],
    )  # fmt: skip
    base = base_folder(tmp_path / "base", base_model_file, ["[X]"])
    made = zhuzi.merge_vocab(base, tmp_path / "donor.model", tmp_path / "out", add_tokens=["<pad>"])
    ours = Tokenizer.from_dir(made.folder)
    assert ours.pad_id == ours.token_to_id("<pad>"), "never [PAD], which text can become here"
    kinds = {piece.text: piece.kind for piece in ours.pieces()}
    assert set(made.user_defined) == {"<sep>", "春天", "<a b>", "[PAD]"}
    assert all(kinds[symbol] == "USER_DEFINED" for symbol in made.user_defined)
    assert "[X]" in made.kept_as_in_base and kinds["[X]"] == "CONTROL"
    assert (set(made.left_out_pieces), made.left_out) == ({"<ctl>", "<pad>"}, 2)
    peer = sentencepiece.SentencePieceProcessor(model_file=str(made.folder / "tokenizer.model"))
    texts = ["春<sep>天[X]", "<sep><sep>春天春天", "a<sep> the <sep>", "在春天里<a b>散步", "", "<sep"]
    texts += [f"{text[:200]}<sep>{text[200:400]}春天" for text in chinese_texts[:40]]
    for text in texts:
        assert ours.encode(text) == peer.encode(text), text
        assert ours.decode(ours.encode(text)) == peer.decode(peer.encode(text))
