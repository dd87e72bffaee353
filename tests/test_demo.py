"""The demo: the whole road, short here, at its full length in the slow test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the demo needs the extra `demo`")
pytest.importorskip("mistral_common", reason="the demo needs the extra `demo`")

from zhuzi.demo import road, run_demo, sample
from zhuzi.errors import InputError, OutputExistsError

STAGES = ["base model", "extended", "stage 1", "stage 2, merged", "tuned, merged"]


def test_the_sample() -> None:
    zh, en = sample.chinese(None), sample.english()
    _, learnt, held = sample.instructions(None)
    for split in (zh, en):
        texts = split.train + split.held_out
        assert sum(len(t.encode()) for t in texts) >= 60_000
        assert len(set(texts)) == len(texts)
        assert len(split.held_out) == len(texts) // 10
    assert len(learnt) + len(held) >= 100
    assert len(held) == (len(learnt) + len(held)) // 10
    assert not {r["instruction"] + r["input"] for r in held} & {r["instruction"] + r["input"] for r in learnt}


def test_too_few_documents(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("只有一行\n\n")
    with pytest.raises(InputError, match="needs two"):
        run_demo(tmp_path / "out", corpus=tmp_path / "one.txt")
    assert not (tmp_path / "out").exists()


def test_the_road_on_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistral: Path) -> None:
    """Every step runs on the user's files; the report shows what happened and needs nothing beside it."""
    monkeypatch.setattr(sample, "MEASURED_BYTES", 1500)
    monkeypatch.setitem(road._BASE, "steps", 3)
    for stage in road._STAGES.values():
        monkeypatch.setitem(stage, "steps", 2)
    zh = sample.chinese(None)
    corpus = sample.write_jsonl(tmp_path / "mine.jsonl", zh.train[:40])
    records = [{"instruction": f"问题{i}", "input": "", "output": f"答案{i}"} for i in range(12)]
    (tmp_path / "mine.json").write_text(json.dumps(records))
    lines: list[str] = []
    made = run_demo(
        tmp_path / "out",
        corpus=corpus,
        instructions=tmp_path / "mine.json",
        base_tokenizer=mistral / "mistral_instruct_tokenizer_240216.model.v2",
        say=lines.append,
    )
    assert [entry["name"] for entry in made.facts["measured"]] == STAGES
    assert all(merge["difference"] <= 1e-4 for merge in made.facts["merges"].values())
    assert all(stage["frozen_checked"] > 30 for stage in made.facts["stages"].values())
    assert made.facts["stages"]["stage1"]["trainable"] == made.facts["vocabulary"]["vocab_size"] * 128
    assert len(lines) >= 9 + len(STAGES)
    html = made.report.read_text("utf-8")
    assert html.count("<svg") == 5
    assert not re.search(r"""(src|href)=["'](?!#)""", html), "nothing is loaded from elsewhere"
    assert str(corpus) in html
    for stage in STAGES:
        assert stage in html

    question = subprocess.run(
        [
            *[sys.executable, "-c", "from zhuzi.cli import main; main()"],
            *["chat", "--model", str(made.model), "--max-new-tokens", "4", "--temperature", "0"],
        ],
        input="你好",
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert question.returncode == 0, question.stderr
    with pytest.raises(OutputExistsError):
        run_demo(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("files", ["built-in", "reference"])
def test_the_road_at_full_length(files: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Chinese gets better in stage 1 and again in stage 2."""
    own: dict[str, Path] = {}
    if files == "reference":
        from texts import reference_corpora

        reference = request.getfixturevalue("reference")
        texts = next(t for name, t in reference_corpora(reference) if name.startswith("prose_republican"))
        own = {
            "corpus": sample.write_jsonl(tmp_path / "zh.jsonl", texts),
            "instructions": reference / "instructions" / "llamafactory_alpaca_zh_demo.json",
            "base_tokenizer": reference / "tokenizers" / "llama-32000.model",
        }
    made = run_demo(tmp_path / "out", **own)  # type: ignore[arg-type]
    chinese = [entry["bits_per_byte"]["zh"] for entry in made.facts["measured"]]
    assert chinese[1] > chinese[2] > chinese[3]
