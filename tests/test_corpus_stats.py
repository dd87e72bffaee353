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
from test_pages import require_self_contained
from zhuzi.cli import cli
from zhuzi.corpus import corpus_stats, stats, use


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


def test_what_the_new_pieces_save(
    texts: list[str], merged: Path, base_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text with both vocabularies, whole or every other document; the page shows it in both languages."""
    new, old = zhuzi.Tokenizer.from_dir(merged), zhuzi.Tokenizer.from_sentencepiece(base_model_file)
    corpus = corpus_of(texts, merged, tmp_path)
    found = corpus_stats(corpus, merged, base=base_model_file).against_base
    assert found is not None
    decoded = new.decode_batch(new.encode_batch(texts))
    assert (found.documents, found.characters) == (len(texts), sum(map(len, decoded)))
    assert found.tokens == sum(len(new.encode(text)) for text in texts)
    assert found.base_tokens == sum(len(old.encode(text)) for text in decoded)
    assert 0 < found.saved < 1 and f"{100 * found.saved:.1f} % fewer tokens" in repr(found)
    assert [source.base_tokens for source in found.sources] == [found.base_tokens]

    monkeypatch.setattr(use, "COMPARED_BYTES", sum(len(text.encode()) for text in texts) // 2 + 1)
    monkeypatch.setattr(use, "_BATCH", 50)
    part = corpus_stats(corpus, merged, base=base_model_file).against_base
    assert part is not None and part.documents == len(texts[::2])
    assert 0 < part.tokens < found.tokens

    corpus_stats(corpus, merged, base=base_model_file).write_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    require_self_contained(page)
    assert "fewer. BOS and EOS" in page and "加上新词片" in page
    assert "Characters per token, by source" in page and "Cumulative use of the new pieces" in page
    assert f"zhuzi corpus show {corpus} " in page.split("Fewest characters per token")[1]
    assert "zhuzi corpus verify" in page
    assert f"--base {base_model_file} --html {tmp_path / 'page.html'}" in page


def test_documents_with_the_fewest_characters_per_token(
    texts: list[str], merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    texts = [*texts, "龘𠮷" * 40, "a", "深" * 500]
    corpus = corpus_of(texts, merged, tmp_path, shard_bytes=20_000)
    monkeypatch.setattr(stats, "CHUNK", 37)  # documents lie across chunks
    found = corpus_stats(corpus, tokenizer)
    documents = list(zhuzi.Corpus(corpus))
    ratios = {
        i: len(tokenizer.decode(ids)) / len(ids) for i, ids in enumerate(documents) if len(ids) >= use.SHORT
    }
    assert [d.number for d in found.worst] == sorted(ratios, key=lambda i: (ratios[i], i))[: use.WORST]
    for document in found.worst:
        assert document.tokens == len(documents[document.number])
        assert np.isclose(document.characters_a_token, ratios[document.number])
    assert f"zhuzi corpus show {corpus} {len(texts) - 3} --tokenizer TOKENIZER" in found.text()


def test_cumulative_use() -> None:
    assert use.cumulative_use(np.array([0, 6, 0, 3, 1])) == ((1, 0.6), (2, 0.9), (3, 1.0))
    assert use.cumulative_use(np.zeros(3, np.int64)) == ()
