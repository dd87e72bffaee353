"""`zhuzi tokenize`: the pieces of a text."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from click.testing import CliRunner, Result

import zhuzi
from texts import HARD_TEXTS
from zhuzi.cli import cli
from zhuzi.errors import InputError
from zhuzi.tokenizer import tokenize_text
from zhuzi.tokenizer.tokenized import align


def run(*args: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["tokenize", *map(str, args)], input=stdin)


def test_pieces_ids_offsets_and_counts(merged: Path) -> None:
    done = run("人工智能 is 20", "--tokenizer", merged)
    assert done.exit_code == 0, done.output
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    ids = tokenizer.encode("人工智能 is 20")
    lines = done.output.splitlines()
    assert lines[0] == " ".join(map(tokenizer.id_to_token, ids)) and "\x1b" not in done.output
    assert [int(line.split()[0]) for line in lines[2 : 2 + len(ids)]] == ids
    assert lines[-1].startswith(f"{len(ids)} tokens, 10 characters, 18 bytes, {10 / len(ids):.3f} characters")


def test_json_has_sentencepieces_ids(merged: Path, base_model_file: Path, tmp_path: Path) -> None:
    peers = [
        sentencepiece.SentencePieceProcessor(model_file=str(path))
        for path in (merged / "tokenizer.model", base_model_file)
    ]
    for number, text in enumerate(HARD_TEXTS):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode())
        done = run(path, "--tokenizer", merged, "--against", base_model_file, "--json")
        held = json.loads(done.output)
        assert (held["format"], held["text"]) == ("zhuzi.tokenize/1", text)
        for side, peer in zip(held["tokenizers"], peers, strict=True):
            assert side["ids"] == peer.encode(text)
            assert (side["characters"], side["bytes"]) == (len(text), len(text.encode()))
            assert len(side["offsets"]) == len(side["pieces"]) == side["tokens"]


def test_a_text_a_file_and_standard_input_are_one(merged: Path, tmp_path: Path) -> None:
    text = "第一行\n第二行 and more"
    path = tmp_path / "text.txt"
    path.write_text(text)
    shown = [
        run(text, "--tokenizer", merged).output,
        run(path, "--tokenizer", merged).output,
        run("-", "--tokenizer", merged, stdin=text.encode()).output,
    ]
    assert shown[0] == shown[1] == shown[2]
    assert "<0x0A>\n" in shown[0], "lines stay lines"


def test_two_vocabularies_side_by_side(merged: Path, base_model_file: Path, chinese_texts: list[str]) -> None:
    done = run(chinese_texts[0][:400], "--tokenizer", base_model_file, "--against", merged)
    assert done.exit_code == 0
    assert "more tokens than" in done.output and "byte tokens" in done.output
    same = run("the people", "--tokenizer", base_model_file, "--against", base_model_file)
    assert "the same pieces" in same.output
    tokenizers = zhuzi.Tokenizer.from_sentencepiece(base_model_file), zhuzi.Tokenizer.from_dir(merged)
    for text in [*HARD_TEXTS, "哲学等学科融合的交叉学科😀"]:
        one, other = (tokenize_text(text, tokenizer) for tokenizer in tokenizers)
        stretches = align(one, other)
        for side, shown in (("one", one), ("other", other)):
            numbers = [number for stretch in stretches for number in getattr(stretch, side)]
            assert numbers == list(range(shown.tokens)), text
        if stretches:
            begins = [stretch.begin for stretch in stretches]
            assert begins == [0, *(stretch.end for stretch in stretches[:-1])]
            assert stretches[-1].end == len(text)


def test_long_texts_list_the_first_tokens(merged: Path) -> None:
    done = run("啊呀 " * 100, "--tokenizer", merged)
    assert "more; --json has all" in done.output and done.output.count("\n") < 70


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals(no_color: str, coloured: bool, base_model_file: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zhuzi", "tokenize", "春天 a", "--tokenizer", str(base_model_file)]
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm-256color"}
    subprocess.run(command, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert (b"\x1b[48;5;" in shown) == coloured


def test_bad_input(merged: Path, donor: Path, tmp_path: Path) -> None:
    (tmp_path / "gbk.txt").write_bytes("中文".encode("gbk"))
    (tmp_path / "long.txt").write_bytes(b"a" * 10_000_001)
    for text, reason in [
        (tmp_path / "gbk.txt", "not UTF-8 at byte 0"),
        (tmp_path / "long.txt", "more than 10,000,000 bytes"),
        (tmp_path, "is a folder"),
        ("a\udcff", "the text: not UTF-8 at byte 1"),
    ]:
        done = run(text, "--tokenizer", merged)
        assert isinstance(done.exception, InputError) and reason in str(done.exception)
    assert "unigram model" in str(run("a", "--tokenizer", donor).exception)
    assert isinstance(run("a", "--tokenizer", tmp_path / "none").exception, FileNotFoundError)
    assert run("a").exit_code == 2
    empty = run("", "--tokenizer", merged)
    assert empty.exit_code == 0 and "0 tokens, 0 characters" in empty.output
    assert run("a\0b" * 200, "--tokenizer", merged).exit_code == 0
