"""`zhuzi vocab audit`: what is wrong with a vocabulary is found, and nothing is invented."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import sentencepiece
from click.testing import CliRunner

import zhuzi
from protobuf import NORMAL
from random_models import Piece, model
from zhuzi.cli import cli
from zhuzi.errors import InputError, ModelFileError, OutputExistsError
from zhuzi.vocab import audit_vocab, engines
from zhuzi.vocab.audit import AuditedVocab

#: SHA-256 of the published merge of LLaMA and the 20,000 pieces of the Chinese donor.
PUBLISHED_49953 = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"

#: A base with one token for each digit.
BASE: list[Piece] = [
    *((letter, -9.0, NORMAL) for letter in "▁abcdepolr0123456789中国人民"),
    *((text, -1.0 - i, NORMAL) for i, text in enumerate(["op", "le", "ple", "pe", "ople", "people"])),
]


def write_model(path: Path, pieces: list[Piece]) -> Path:
    path.write_bytes(model(pieces, byte_fallback=True, dummy_prefix=True, trims=False, charsmap=b""))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base.model", BASE)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = ["中国人民 people 2024", "people 12 a", "abc", "人", "", "😀 中国"]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def codes(vocab: AuditedVocab, kind: str = "wrong") -> set[str]:
    return {finding.code for finding in vocab.of_kind(kind)}


def test_a_good_extension_is_safe(base: Path, corpus: Path, tmp_path: Path) -> None:
    good = write_model(tmp_path / "good.model", [*BASE, ("中国", 2.0, NORMAL), ("人民", 1.0, NORMAL)])
    audit = audit_vocab(good, base=base, corpus=corpus)
    (vocab,) = audit.vocabularies
    assert audit.safe and vocab.new_pieces == 2 and vocab.dead == () and vocab.moved_base_pieces == 0
    assert (vocab.digits.split, vocab.digits.base_splits, vocab.ties.new) == (True, True, 0)
    assert vocab.common.covered == 4
    drift, usage = vocab.drift, vocab.usage
    assert drift is not None and usage is not None
    assert (drift.lines, drift.lines_without_han, drift.changed_lines, drift.longer_lines) == (5, 2, 0, 0)
    assert (drift.documents_without_han, drift.changed_documents) == (2, 0)
    peer = sentencepiece.SentencePieceProcessor(model_file=str(good))
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert usage.tokens == sum(map(len, peer.encode(texts)))
    assert usage.byte_tokens == 4 and usage.coverage.missing == (("😀", 1),)
    assert usage.frequent_new == (("中国", 2), ("人民", 1)) and usage.unused_new == ()
    (source,) = usage.sources
    assert (source.path, source.documents) == (str(corpus), 5)
    assert source.characters == len("".join(texts)) and source.bytes == len("".join(texts).encode())
    assert vocab.parity is not None and vocab.parity.engines[0].exact


def test_what_is_wrong_is_named(base: Path, corpus: Path, tmp_path: Path) -> None:
    # `eo` breaks `people` up, `12` joins digits, and nothing makes 国人民中 once 人民 is there.
    new: list[Piece] = [
        ("eo", 3.0, NORMAL),
        ("12", 0.0, NORMAL),
        ("人民", 0.0, NORMAL),
        ("国人民中", 0.0, NORMAL),
    ]
    bad = write_model(tmp_path / "bad.model", [*BASE, *new])
    (vocab,) = audit_vocab(bad, base=base, corpus=corpus).vocabularies
    assert {"dead-new", "dead-killed", "digits", "drift"} <= codes(vocab)
    assert [(entry.piece, entry.becomes) for entry in vocab.dead_of("new")] == [
        ("国人民中", ("国", "人民", "中"))
    ]
    assert [entry.piece for entry in vocab.dead_of("killed")] == ["people"]
    assert vocab.digits.new_joined == ("12",) and vocab.digits.base_splits
    assert vocab.ties.new == 3 and "ties" in codes(vocab, "warning")
    drift = vocab.drift
    assert drift is not None
    assert (drift.changed_documents, drift.changed_lines, drift.lines_without_han) == (1, 1, 2)
    assert drift.changed[0].text == "people 12 a"
    assert drift.changed[0].base == ("▁", "people", "▁", "1", "2", "▁", "a")
    assert drift.longer_lines == 2 and drift.longest[0].text == "中国人民 people 2024"
    (alone,) = audit_vocab(bad).vocabularies
    assert codes(alone) == {"dead"} and codes(alone, "unchecked") == {"no-corpus"}
    assert (alone.usage, alone.drift, alone.parity, alone.new_pieces) == (None, None, None, None)


def test_a_base_whose_pieces_moved(base: Path, corpus: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.model", BASE[1:])
    (vocab,) = audit_vocab(other, base=base, corpus=corpus, parity_bytes=0).vocabularies
    assert "base-moved" in codes(vocab) and vocab.moved_base_pieces == len(BASE)
    assert vocab.drift is None and vocab.parity is None and "no-parity" in codes(vocab, "unchecked")


def test_the_published_vocabularies(reference: Path, tmp_path: Path) -> None:
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    merged = zhuzi.merge_vocab(base, donor, tmp_path / "merged").folder
    assert hashlib.sha256((merged / "tokenizer.model").read_bytes()).hexdigest() == PUBLISHED_49953
    second = reference / "tokenizers" / "chinese-llama-2-55296.model"
    audit = audit_vocab(
        [merged, second, base],
        base=base,
        corpus=reference / "corpora" / "recipes.jsonl.zst",
        parity_bytes=100_000,
    )
    paper, next_one, plain = audit.vocabularies
    assert [len(paper.dead_of(o)) for o in ("new", "killed", "base")] == [345, 194, 0]
    assert [len(next_one.dead_of(o)) for o in ("new", "killed", "base")] == [657, 1, 0]
    assert (paper.vocab_size, next_one.vocab_size) == (49_953, 55_296)
    assert {"意大利", "国务院"} <= {entry.piece for entry in paper.dead_of("new")}
    assert {"▁people", "▁create"} <= {entry.piece for entry in paper.dead_of("killed")}
    assert "<pad>" in {entry.piece for entry in next_one.dead_of("new")}
    assert {"dead-new", "dead-killed", "digits", "drift"} <= codes(paper)
    assert "digits" not in codes(next_one) and plain.safe and plain.dead == ()
    assert paper.digits.example_pieces == ("▁20", ",", "000")
    assert audit.corpus is not None and 0 < audit.corpus.sample_bytes <= 100_000 < audit.corpus.bytes
    for vocab in audit.vocabularies:
        assert vocab.parity is not None
        for engine in vocab.parity.engines:
            if engine.absent is None:
                differs = engine.engine == "tokenizers" and vocab is not plain
                assert bool(engine.differing) == differs, (vocab.name, engine.engine)


def test_the_command(base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = write_model(tmp_path / "bad.model", [*BASE, ("人民", 0.0, NORMAL), ("国人民中", 0.0, NORMAL)])
    written = [tmp_path / "out" / name for name in ("audit.json", "audit.html")]
    command = ["vocab", "audit", bad, base, "--base", base, "--corpus", corpus]
    command += ["--json", written[0], "--html", written[1]]
    done = CliRunner().invoke(cli, [*map(str, command)])
    assert done.exit_code == 0, done.output
    assert "bad: not safe to train on" in done.output and "国人民中 → 国 人民 中" in done.output
    held = json.loads(written[0].read_text())
    assert held["format"] == "zhuzi.vocab-audit/1" and held["safe"] is False
    assert [vocab["safe"] for vocab in held["vocabularies"]] == [False, True]
    assert held["vocabularies"][0]["dead"][0]["becomes"] == ["国", "人民", "中"]
    assert held["corpus"]["documents"] == 5
    page = written[1].read_text()
    assert "bad: not safe to train on" in page and "词片" in page and "http://" not in page
    assert ">是<" in page and re.search(r">\d+ / 8,105<", page)
    for path in written:
        path.unlink()
    with monkeypatch.context() as patch:  # a reader that has stopped, such as head
        patch.setattr("zhuzi.cli.audit.say", Mock(side_effect=BrokenPipeError))
        CliRunner().invoke(cli, [*map(str, command), "--overwrite"])
    assert all(path.exists() for path in written)
    again = CliRunner().invoke(cli, [*map(str, command), "--strict", "--overwrite"])
    assert again.exit_code == 1 and "not safe to train on: bad (1 new piece can never" in str(again.exception)
    strict = CliRunner().invoke(cli, ["vocab", "audit", str(base), "--strict"])
    assert strict.exit_code == 0 and "nothing wrong, as far as was looked" in strict.output
    assert "not checked: base: without a corpus (--corpus) neither the engines nor" in strict.output


def test_engines_that_are_not_installed_are_named(
    base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figure says that they agree, `--strict` and the JSON say that they were not asked."""
    monkeypatch.setattr(engines, "installed", lambda package: None)
    command = ["vocab", "audit", base, "--base", base, "--corpus", corpus, "--strict"]
    command += ["--json", tmp_path / "audit.json"]
    done = CliRunner().invoke(cli, [*map(str, command)])
    assert done.exit_code == 0 and "base: nothing wrong, as far as was looked" in done.output
    for name, extra in (("tokenizers", "train"), ("llama.cpp", "gguf")):
        line = f'{name} was not compared (not installed: pip install "zhuzi[{extra}]")'
        assert f"not checked: base: {line}" in done.output
        row = next(line for line in done.output.splitlines() if line.startswith(f"same ids as {name}"))
        assert row.endswith("not compared")
    (held,) = json.loads((tmp_path / "audit.json").read_text())["vocabularies"]
    absent = {e["engine"]: e["absent"] for e in held["parity"]["engines"] if e["absent"]}
    assert absent.keys() == {"tokenizers", "llama.cpp"}
    (vocab,) = audit_vocab(base, base=base, corpus=corpus).vocabularies
    assert vocab.parity is not None and vocab.parity.exact and vocab.parity.absent == absent


def test_bad_input(base: Path, corpus: Path, donor: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"donor\.model: a unigram model"):
        audit_vocab(donor)
    with pytest.raises(FileNotFoundError):
        audit_vocab(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"holds no tokenizer\.model"):
        audit_vocab(base, base=tmp_path)
    with pytest.raises(ValueError, match="no vocabulary"):
        audit_vocab([])
    with pytest.raises(ValueError, match="given twice; name each vocabulary once"):
        audit_vocab([base, base.parent / "." / base.name])
    with pytest.raises(ValueError, match="parity_bytes"):
        audit_vocab(base, parity_bytes=-1)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"empty\.txt: no text"):
        audit_vocab(base, corpus=tmp_path / "empty.txt")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 1}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl: line 2"):
        audit_vocab(base, corpus=tmp_path / "bad.jsonl")
    skipped = audit_vocab(base, corpus=tmp_path / "bad.jsonl", on_error="skip").corpus
    assert skipped is not None and skipped.documents == 1 and "1 record" in skipped.notes[0]
    with pytest.raises(OutputExistsError):
        audit_vocab(base, corpus=corpus).write_json(corpus)


def test_the_sample_is_drawn_by_documents_and_seed() -> None:
    from zhuzi.vocab.audit.counting import PART_CHARACTERS, Sample

    def drawn(limit: int, seed: int) -> tuple[list[str], int]:
        sample = Sample(limit, seed)
        for i in range(1000):
            sample.add(f"{i:05d}")
        return sample.take()

    texts, size = drawn(500, 1)
    assert (len(texts), size) == (100, 500) and texts == sorted(texts) == drawn(500, 1)[0]
    assert texts != drawn(500, 2)[0] and len(drawn(10_000, 1)[0]) == 1000
    long = Sample(1 << 30, 1)
    text = ("一行\n" * 40_000) + "x" * PART_CHARACTERS * 2
    long.add(text)
    parts = long.take()[0]
    assert "".join(parts) == text and max(map(len, parts)) <= PART_CHARACTERS
