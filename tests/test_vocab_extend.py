"""Continued BPE: no new piece is dead, old ids stay, nothing depends on threads."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import zhuzi
from zhuzi import Tokenizer, _core
from zhuzi.cli import cli
from zhuzi.errors import InputError, ModelFileError, VocabSizeError
from zhuzi.vocab import dead_pieces, run_counts
from zhuzi.vocab.words import read_counts

WITHOUT_HAN = [
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n    return x + 1  # 2026-11-27",
    "“Quoted” — and… «more»",
    "Привет, мир! 안녕하세요 ひらがな テスト",
    "，。！？《》",
    "😀 \u3000 20,000",
]


def is_of_chinese(piece: str) -> bool:
    body = piece.removeprefix("▁")
    return any(map(_core.is_han, body)) and all(_core.is_han(c) or _core.is_cjk_punctuation(c) for c in body)


@pytest.fixture(params=["mistral", "llama"])
def base(request: pytest.FixtureRequest) -> Path:
    """Mistral's model has pieces of several Han, LLaMA's has none: the new scores lie below and above."""
    if request.param == "mistral":
        file: Path = request.getfixturevalue("base_model_file")
        return file
    reference: Path = request.getfixturevalue("reference")
    return reference / "tokenizers" / "llama-32000.model"


@pytest.mark.parametrize("scripts", ["han", "all"])
def test_new_pieces_are_reached_and_old_ones_stay(
    base: Path, chinese_file: Path, chinese_texts: list[str], tmp_path: Path, scripts: str
) -> None:
    made = zhuzi.extend_vocab(
        chinese_file, base, tmp_path / "out", new_pieces=2000, scripts=scripts, characters="none"
    )
    old, new = Tokenizer.from_sentencepiece(base), Tokenizer.from_dir(made.folder)
    assert (made.vocab_size, made.new_pieces) == (34_000, 2000)
    assert new.pieces()[:32_000] == old.pieces()
    assert dead_pieces(made.folder / "tokenizer.model") == dead_pieces(base)
    added = new.pieces()[32_000:]
    assert all(one.score > other.score for one, other in pairwise(added))
    top = max(piece.score for piece in old.pieces() if piece.kind == "NORMAL")
    assert made.placement == ("above" if scripts == "han" and "llama" in base.name else "below")
    assert (added[-1].score > top) == (made.placement == "above")
    for text in WITHOUT_HAN if scripts == "han" else []:
        assert new.encode(text) == old.encode(text)
    if scripts == "han":
        assert all(is_of_chinese(piece.text) for piece in added)
    else:
        assert not any(c.isdecimal() for piece in added for c in piece.text)
    before, after = (sum(map(len, t.encode_batch(chinese_texts))) for t in (old, new))
    assert after < 0.7 * before
    assert all(len(new.encode(text)) <= len(old.encode(text)) for text in chinese_texts)


def test_random_text_without_han_keeps_its_ids(base: Path, chinese_file: Path, tmp_path: Path) -> None:
    made = zhuzi.extend_vocab(chinese_file, base, tmp_path / "out", new_pieces=1000, characters="none")
    old, new = Tokenizer.from_sentencepiece(base), Tokenizer.from_dir(made.folder)
    draw = random.Random(1)
    letters = "ab the▁ ing \n\t0123456789.,—“”‘’…·《》「」，。、éяのア한😀\u3000"
    for _ in range(3000):
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(1, 60)))
        assert new.encode(text) == old.encode(text), text


def test_threads_and_files_do_not_matter(
    base_model_file: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps({"text": text}) + "\n" for text in chinese_texts))
    several = tmp_path / "several"
    several.mkdir()
    for number in range(20):
        texts = chinese_texts[len(chinese_texts) * number // 20 : len(chinese_texts) * (number + 1) // 20]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (several / f"{number:02}.jsonl").write_text(lines)
    models = set()
    for threads, inputs in [(1, one), (2, one), (5, one), (2, several)]:
        out = tmp_path / f"{threads}-{inputs.name}"
        zhuzi.extend_vocab(
            inputs, base_model_file, out, new_pieces=800, characters="none", num_threads=threads
        )
        models.add((out / "tokenizer.model").read_bytes())
    assert len(models) == 1


def test_counting_while_reading_does_not_matter(
    base_model_file: Path, chinese_texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = 300_000
    monkeypatch.setattr(run_counts, "WINDOW", window)
    draw = random.Random(5)
    clauses = [clause for text in chinese_texts for clause in re.findall(r"[^，。\n]+[，。\n]?", text)]
    lines = "".join("".join(draw.choices(clauses, k=6)).replace("\n", "") + "\n" for _ in range(8_000))
    assert len(lines.encode()) > 4 * window
    plain, packed = tmp_path / "text.txt", tmp_path / "text.txt.gz"
    plain.write_text(lines)
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    for file, sample_bytes in ((plain, 100_000_000), (packed, 100_000_000), (packed, 2 * window)):
        models = set()
        for threads in (1, 2, 3):
            out = tmp_path / "out"
            made = zhuzi.extend_vocab(
                file, base_model_file, out, new_pieces=300, characters="none", num_threads=threads,
                sample_bytes=sample_bytes, overwrite=True,
            )  # fmt: skip
            models.add((made.folder / "tokenizer.model").read_bytes())
            assert made.sampled == (file == packed and sample_bytes == 2 * window)
        assert len(models) == 1


def test_characters_of_a_list_come_first(base_model_file: Path, chinese_file: Path, tmp_path: Path) -> None:
    made = zhuzi.extend_vocab(chinese_file, base_model_file, tmp_path / "out", vocab_size=40_064)
    tokenizer = Tokenizer.from_dir(made.folder)
    assert made.vocab_size == tokenizer.vocab_size == 40_064
    assert made.characters > made.unseen_characters > 0
    assert all(tokenizer.token_to_id(character) is not None for character in _core.common_han())
    listed = tmp_path / "list.txt"
    listed.write_text("龘\n靐 龘\n")
    made = zhuzi.extend_vocab(
        chinese_file, base_model_file, tmp_path / "few", new_pieces=100, characters=listed
    )
    assert [piece.text for piece in Tokenizer.from_dir(made.folder).pieces()[32_000:32_002]] == ["龘", "靐"]
    assert (made.characters, made.unseen_characters) == (2, 2)


def test_words_with_counts_alone_and_protected_and_forbidden_pieces(
    base_model_file: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("中华人民共和国 500 ns\n意大利\t300\n国务院\t200\n\n人民\t900\n")
    assert list(read_counts(words))[:2] == [("中华人民共和国", 500), ("意大利", 300)]
    made = zhuzi.extend_vocab(
        [],
        base_model_file,
        tmp_path / "out",
        counts=words,
        new_pieces=14,
        characters="none",
        protected=["紫禁城太和殿", "国务院"],
        forbidden=["人民"],
    )
    tokenizer = Tokenizer.from_dir(made.folder)
    assert (made.words, made.new_pieces, made.documents) == (4, 14, 0)
    pieces = {piece.text for piece in tokenizer.pieces()[32_000:]}
    assert {"紫禁城太和殿", "国务院"} <= pieces
    assert "人民" not in pieces
    assert not dead_pieces(made.folder / "tokenizer.model")


def test_added_tokens_of_the_base_move(base_model_file: Path, chinese_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    Tokenizer(base_model_file.read_bytes(), added_tokens=["<pad>"]).save(folder)
    made = zhuzi.extend_vocab(
        chinese_file,
        folder,
        tmp_path / "out",
        vocab_size=32_064,
        characters="none",
        add_tokens=["[X]", "<s>"],
    )
    assert made.moved == {"<pad>": (32_000, 32_062)}
    assert made.already == {"<s>": 1}
    assert Tokenizer.from_dir(made.folder).added_tokens == ("<pad>", "[X]")
    record = json.loads((made.folder / "zhuzi.json").read_text())
    assert record["moved_tokens"] == {"<pad>": {"from": 32_000, "to": 32_062}}


def test_bad_input(base_model_file: Path, donor: Path, chinese_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = tmp_path / "counts.tsv"
    counts.write_text("中国\t10\n人民\tmany\n")
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n\n")
    fast = tmp_path / "gpt" / "tokenizer.json"
    fast.parent.mkdir()
    fast.write_text("{}")
    extend, few = zhuzi.extend_vocab, {"new_pieces": 50, "characters": "none"}
    with pytest.raises(ModelFileError, match="unigram model cannot be extended"):
        extend(chinese_file, donor, out, **few)
    with pytest.raises(ModelFileError, match="not a SentencePiece model"):
        extend(chinese_file, fast, out, **few)
    with pytest.raises(ModelFileError, match="take a base that comes with one"):
        extend(chinese_file, fast.parent, out, **few)
    with pytest.raises(InputError, match=r"counts\.tsv: line 2: the count of `人民` is `many`"):
        extend([], base_model_file, out, counts=counts, **few)
    with pytest.raises(InputError, match="nothing to learn from"):
        extend(blank, base_model_file, out, **few)
    one = tmp_path / "one.txt"
    one.write_text("中国\n")
    with pytest.raises(VocabSizeError, match=r"no new piece .*give more or other text"):
        extend(one, base_model_file, out, **few)
    with pytest.raises(VocabSizeError, match="ask for new_pieces=") as error:
        extend(chinese_file, base_model_file, out, new_pieces=10**6, characters="none")
    assert error.value.limit
    extend(chinese_file, base_model_file, tmp_path / "most", new_pieces=error.value.limit, characters="none")
    with pytest.raises(ValueError, match="come first"):
        extend(chinese_file, base_model_file, out, new_pieces=50)
    with pytest.raises(ValueError, match="give one of"):
        extend(chinese_file, base_model_file, out)
    with pytest.raises(ValueError, match="has 32,000 ids"):
        extend(chinese_file, base_model_file, out, vocab_size=32_000)
    with pytest.raises(ValueError, match="no inputs"):
        extend([], base_model_file, out, new_pieces=5)
    with pytest.raises(ValueError, match=r"cannot be protected: .*; scripts=\"all\" allows more"):
        extend(chinese_file, base_model_file, out, **few, protected=["中a"])
    with pytest.raises(ValueError, match="`protected` and also forbidden"):
        extend(chinese_file, base_model_file, out, **few, protected=["中国"], forbidden=["中国"])
    for name in ("new_pieces", "min_count"):
        with pytest.raises(ValueError, match=f"`{name}` is 1000"):
            extend(chinese_file, base_model_file, out, **{**few, name: 10**30})
    with pytest.raises(ModelFileError, match=r"holds a tokenizer\.json but no tokenizer\.model"):
        extend(chinese_file, fast.parent, out, **few)
    english = tmp_path / "english.txt"
    english.write_text("no Han here\n" * 9)
    with pytest.raises(VocabSizeError, match=r"no new piece \(with scripts=\"han\" only Han counts\)"):
        extend(english, base_model_file, out, **few)
    assert not out.exists()
    command = ["vocab", "extend", str(chinese_file), "--base", str(base_model_file), "--out", str(out)]
    failed = subprocess.run([sys.executable, "-m", "zhuzi", *command], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == "zhuzi: give one of --new-pieces and --vocab-size\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xd6\xd0\t3", "line 2: not UTF-8"),
        ("人民\t".encode() + b"9" * 5000, "line 2: the count of `人民` is `999"),
        ("人民\t-3".encode(), "line 2: the count of `人民` is `-3`"),
        ("人民".encode(), "line 2: `人民` has no count"),
    ],
)
def test_lines_without_a_count_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    counts = tmp_path / "counts.tsv"
    counts.write_bytes("中国\t10\n".encode() + line + b"\n")
    with pytest.raises(InputError, match=message):
        list(read_counts(counts))
    with pytest.raises(InputError, match="is a folder"):
        list(read_counts(tmp_path))


def test_the_command(base_model_file: Path, chinese_file: Path, tmp_path: Path) -> None:
    arguments = ["vocab", "extend", str(chinese_file), "--base", str(base_model_file), "--out"]
    arguments += [str(tmp_path / "out"), "--new-pieces", "500", "--characters", "none"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "32,500 ids = 32,000 of the base + 500 new + 0 added tokens" in result.output
    assert "learned from" in result.output


def test_killed_while_learning_nothing_is_there(
    base_model_file: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    draw = random.Random(3)
    characters = sorted(set("".join(chinese_texts)))
    with text.open("w") as file:
        for _ in range(100_000):
            file.write("".join(draw.choices(characters, k=40)) + "\n")
    out = tmp_path / "place" / "out"
    command = [sys.executable, "-m", "zhuzi", "vocab", "extend", str(text), "--base", str(base_model_file)]
    command += ["--out", str(out), "--new-pieces", "20000", "--characters", "none"]
    # How far it comes until then depends on the machine; a run that ended first has written all of it.
    for seconds in (0.6, 1.0, 1.4, 1.8):
        process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert not out.exists()
        assert not [path for path in out.parent.glob("*") if path.is_dir()]
    assert seconds > 0.6
