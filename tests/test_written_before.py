"""Folders written by version 0.1 (`fixtures/make.py`): read, verified, resumed and merged by this one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zhuzi
from zhuzi.corpus import verify_corpus

BEFORE = Path(__file__).parent / "fixtures" / "written-by-0.1"
CHANGED_NS = 1_790_000_000_000_000_000
OPTIONS: dict[str, Any] = {"shard_bytes": 2000, "min_chars": 5}


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, as the current folder: what is in it names the rest by relative paths."""
    copy = tmp_path / "before"
    shutil.copytree(BEFORE, copy)
    os.utime(copy / "text.jsonl", ns=(CHANGED_NS, CHANGED_NS))
    monkeypatch.chdir(copy)
    return copy


def test_a_tokenizer_folder(before: Path) -> None:
    tokenizer = zhuzi.Tokenizer.from_dir("tokenizer")
    assert (
        tokenizer.fingerprint
        == json.loads(Path("corpus/manifest.json").read_text())["tokenizer"]["fingerprint"]
    )
    for text, ids in json.loads(Path("ids.json").read_text("utf-8")).items():
        assert tokenizer.encode(text) == ids


def test_a_finished_corpus(before: Path) -> None:
    verify_corpus("corpus")
    manifest = json.loads(Path("corpus/manifest.json").read_text())
    corpus = zhuzi.Corpus("corpus")
    assert (len(corpus), corpus.tokens) == (manifest["documents"], manifest["tokens"])
    again = zhuzi.encode_corpus(["text.jsonl"], "tokenizer", "corpus", **OPTIONS)
    assert (again.outcome, again.documents, again.tokens) == ("already", len(corpus), corpus.tokens)


def test_a_corpus_is_written_as_before(before: Path) -> None:
    zhuzi.encode_corpus(["text.jsonl"], "tokenizer", "anew", **OPTIONS)
    for name in sorted(path.name for path in Path("corpus").glob("*")):
        if name in ("manifest.json", "plan.json") or name.startswith("shard"):
            assert (Path("anew") / name).read_bytes() == (Path("corpus") / name).read_bytes(), name


def test_an_unfinished_corpus_is_resumed(before: Path) -> None:
    done = zhuzi.encode_corpus(["text.jsonl"], "tokenizer", "corpus-begun", **OPTIONS)
    assert (done.outcome, done.resumed) == ("finished", 1)
    for whole in sorted(Path("corpus").glob("shard-*")):
        assert (Path("corpus-begun") / whole.name).read_bytes() == whole.read_bytes()


def test_shards_are_merged(before: Path) -> None:
    from zhuzi.corpus import merge_shards

    merge_shards("corpus", "joined")
    shards = sorted(Path("corpus").glob("shard-*.bin"))
    assert Path("joined.bin").read_bytes() == b"".join(shard.read_bytes() for shard in shards)


def test_a_model_folder_and_an_adapter(before: Path) -> None:
    pytest.importorskip("torch", reason="the training stack is the extra `train`")
    from safetensors.numpy import load_file

    zhuzi.extend_model("base", "tokenizer", "model-anew")
    zhuzi.merge_adapter("model", "run/adapter", "merged-anew")
    for old, new in (("model", "model-anew"), ("merged", "merged-anew")):
        then, now = (load_file(Path(f) / "model.safetensors") for f in (old, new))
        assert then.keys() == now.keys()
        assert all(np.array_equal(then[name], now[name]) for name in then)
        records = [json.loads((Path(f) / "zhuzi.json").read_text()) for f in (old, new)]
        assert records[0].keys() <= records[1].keys()


def test_a_training_run_is_resumed(before: Path) -> None:
    pytest.importorskip("torch", reason="the training stack is the extra `train`")
    finished = zhuzi.pretrain("run.json", progress=False)
    assert (finished.steps, finished.resumed_from) == (6, None)
    resumed = zhuzi.pretrain("run-begun.json", progress=False)
    assert (resumed.steps, resumed.resumed_from) == (6, 3)
    then, now = (dict(report.losses) for report in (finished, resumed))
    assert now == pytest.approx(then, rel=1e-3)
