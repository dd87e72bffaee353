"""Why characters are spelled in bytes and pieces are unused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import zhuzi
from corpus_tools import write_lines
from zhuzi.cli import cli
from zhuzi.corpus import corpus_stats, stats


@pytest.fixture(scope="module")
def texts(chinese_texts: list[str]) -> list[str]:
    odd = "龘龘龘 𠮷𠮷\t\t\t\ttabs\u200b\nline 𠮷"
    return [*chinese_texts, odd, "\n\n龘", "𠮷", *chinese_texts[:3]]


def corpus_of(texts: list[str], tokenizer: Path, folder: Path, **options: object) -> Path:
    path = write_lines(folder / "in.jsonl", texts)
    return zhuzi.encode_corpus([path], tokenizer, folder / "out", **options).folder  # type: ignore[arg-type]


@pytest.mark.parametrize("eos", [True, False])
def test_characters_without_a_piece(
    eos: bool, texts: list[str], merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    known = {piece.text for piece in tokenizer.pieces()} | {" ", "\n"}
    letters = Counter(letter for text in texts for letter in text if letter not in known)
    corpus = corpus_of(texts, merged, tmp_path, eos=eos)
    monkeypatch.setattr(stats, "CHUNK", 7)  # so that characters lie across chunks
    found = corpus_stats(corpus, tokenizer)
    assert dict(found.missing_characters) == dict(letters.most_common(stats.SHOWN_PIECES))
    assert found.missing_kinds == len(letters)
    assert found.newline_tokens == sum(text.count("\n") for text in texts)
    assert found.byte_tokens == sum(n * len(letter.encode()) for letter, n in letters.items())
    assert "U+0009 4" in found.text()
    assert f"newlines: {found.newline_tokens:,} tokens" in found.text()


@pytest.mark.parametrize("eos", [True, False])
def test_why_a_new_piece_is_never_used(eos: bool, texts: list[str], merged: Path, tmp_path: Path) -> None:
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    corpus = corpus_of(texts, merged, tmp_path, eos=eos, shard_bytes=20_000)
    read = zhuzi.Corpus(corpus)
    assert len(read.shards) > 1
    found = corpus_stats(corpus, tokenizer, base=32_000, num_threads=2)
    documents = ["▁" + text.replace(" ", "▁") for text in texts]
    occurring = {
        piece: n
        for piece in found.unused_new
        if (n := sum(len(re.findall(f"(?={re.escape(piece)})", text)) for text in documents))
    }
    assert dict(found.cut_otherwise) == occurring
    assert occurring
    assert [n for _, n in found.cut_otherwise] == sorted(occurring.values(), reverse=True)
    assert set(found.absent_new) == set(found.unused_new) - set(occurring)
    assert found.absent_new
    piece, n = found.cut_otherwise[0]
    assert f"unused, text present but split differently: {len(occurring):,} new piece" in found.text()
    assert f"most frequent: {piece} {n:,}" in found.text()
    assert "unused, text not in the corpus: " in found.text()


def test_a_long_text_is_searched_in_parts(merged: Path, tmp_path: Path) -> None:
    """The text is searched a megabyte at a time; what lies across is found once."""
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    piece = next(p.text for p in tokenizer.pieces()[32_000:-1] if len(p.text) == 2 and p.text.isalpha())
    text = f"a{piece}" * 400_000
    corpus = corpus_of([text], merged, tmp_path)
    from zhuzi import _core

    id = tokenizer.token_to_id(piece)
    assert id is not None
    single = tokenizer.token_to_id("a")
    assert single is not None
    found = _core.count_occurrences(corpus, tokenizer.compiled, [id, single], 1, None)
    assert found == [400_000, 400_000]


def test_progress_and_what_the_command_shows(texts: list[str], merged: Path, tmp_path: Path) -> None:
    corpus = corpus_of(texts, merged, tmp_path)
    told: list[tuple[int, int]] = []
    found = corpus_stats(corpus, merged, base=32_000, progress=lambda *at: told.append(at))
    size = sum(path.stat().st_size for path in corpus.glob("*.bin"))
    assert told[0] == (size, size)
    assert told[-1][1] == 2 * size
    with pytest.raises(KeyError):
        corpus_stats(corpus, merged, base=32_000, progress=lambda *_: {}["stop"])

    line = ["corpus", "stats", str(corpus), "--tokenizer", str(merged), "--base", "32000"]
    shown = CliRunner().invoke(cli, [*line, "--html", str(tmp_path / "page.html")])
    assert shown.exit_code == 0, shown.output
    assert found.text() in shown.output
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Most frequent characters without a piece" in page
    assert "unused, text present but split differently" in page
    assert np.isclose(found.characters_a_token, found.characters / found.tokens)


def test_a_corpus_without_bytes_or_documents(merged: Path, tmp_path: Path) -> None:
    corpus = corpus_of(["一"], merged, tmp_path)
    found = corpus_stats(corpus, merged)
    assert (found.newline_tokens, found.missing_characters, found.cut_otherwise) == (0, (), ())
    assert repr(found).startswith(f"CorpusStats({corpus}: 1 document, ")
    assert "<table>" in found._repr_html_()
