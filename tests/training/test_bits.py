"""Bits per byte of models on corpora: windows, batches, processes, resuming."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import ENGLISH, PROSE

from zhuzi import Chat, bits_per_byte
from zhuzi.cli import cli
from zhuzi.errors import InputError
from zhuzi.eval import compare_bits


@pytest.fixture
def corpora(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "zh.jsonl", tmp_path / "en.txt"]
    paths[0].write_text("".join(json.dumps({"text": PROSE * n}) + "\n" for n in range(1, 40)))
    paths[1].write_text(ENGLISH * 3)
    return paths


def test_strides_read_more_and_predict_each_token_once(model: Path) -> None:
    chat, texts = Chat.from_dir(model), [ENGLISH, PROSE, "天"]
    bits, tokens = 0.0, 0
    for text in texts:
        ids = chat.tokenizer.encode(text)
        for at in range(len(ids)):
            end = min((at // 5 + 1) * 5, len(ids))  # of the window that predicts it: the next multiple of 5
            start = max(0, end - 15)
            with torch.no_grad():
                logits = chat.model(torch.tensor([[1, *ids[start:at]]])).logits[0, -1].double()
            bits -= float(logits.log_softmax(-1)[ids[at]]) / math.log(2)
            tokens += 1
    for batch in (1, 4):
        found = bits_per_byte(chat.model, chat.tokenizer, texts, context=16, stride=5, batch=batch)
        assert found.bits == pytest.approx(bits, rel=1e-5) and found.tokens == tokens
    with pytest.raises(ValueError, match="stride: want 1 to 15"):
        bits_per_byte(chat.model, chat.tokenizer, texts, context=16, stride=16)


def test_sources_and_models_side_by_side(model: Path, base_model: Path, corpora: list[Path]) -> None:
    pytest.importorskip("jinja2", reason="pages need jinja2")
    made = compare_bits([base_model, model], corpora, context=64, batch=5)
    assert made.sources == ["zh", "en"] and made.documents == [39, 18]
    chat = Chat.from_dir(model)
    plain = bits_per_byte(chat.model, chat.tokenizer, ENGLISH.splitlines() * 3, context=64)
    assert made.measured[1][1].per_byte == pytest.approx(plain.per_byte, rel=1e-6)
    assert made.measured[1][1].bytes == plain.bytes and made.measured[0][0].bytes == made.measured[1][0].bytes
    page = corpora[0].parent / "bits.html"
    made.write_html(page)
    assert all(name in page.read_text() for name in (*made.models, *made.sources, "bits per byte"))
    assert "zhuzi eval compare --model MODEL" in page.read_text()
    few = compare_bits([model], corpora, context=64, max_documents=2)
    assert few.documents == [2, 2]


def test_an_ended_measurement_resumes(
    model: Path, corpora: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhuzi.eval.corpora._SECONDS", 0.0)
    whole = compare_bits([model], corpora, context=64)
    out, calls = tmp_path / "bits.json", []

    def stop(what: str, done: int, total: int) -> None:
        calls.append(what)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_bits([model], corpora, context=64, out=out, progress=stop)
    assert not out.exists() and (tmp_path / "bits.json.partial").exists()
    assert compare_bits([model], corpora, context=64, out=out) == whole
    assert json.loads(out.read_text())["measured"][1]["source"] == "en"
    assert not (tmp_path / "bits.json.partial").exists()


def test_two_processes_measure_as_one(model: Path, corpora: list[Path], tmp_path: Path) -> None:
    one = compare_bits([model], corpora, context=64)
    out = tmp_path / "two.json"
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words = ["-m", "zhuzi", "eval", "bits", "--model", str(model), "--context", "64", "--json", str(out)]
    for corpus in corpora:
        words += ["--corpus", str(corpus)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*line, *words], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits per byte") == 2
    for entry, found in zip(json.loads(out.read_text())["measured"], one.measured[0], strict=True):
        assert entry["bits_per_byte"] == pytest.approx(found.per_byte, rel=1e-6)
        assert entry["tokens"] == found.tokens


def test_on_a_pipe_its_progress_has_a_unit_and_comes_once(
    model: Path, corpora: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhuzi.cli.eval.LOG_SECONDS", 0.0)
    monkeypatch.setattr("zhuzi.eval.corpora._SECONDS", 0.0)
    words = ["eval", "bits", "--model", str(model), "--corpus", str(corpora[0]), "--context", "64"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stderr.splitlines() if " of " in line]
    size = f"{corpora[0].stat().st_size:,}"
    assert lines[-1].endswith(f"model, zh: {size} of {size} bytes")
    assert len(lines) == len(set(lines))


def test_texts_are_counted_as_they_are_measured(model: Path) -> None:
    chat, told = Chat.from_dir(model), []
    bits_per_byte(
        chat.model, chat.tokenizer, [PROSE, "天"], context=16, progress=lambda *state: told.append(state)
    )
    assert told[0] == (0, 2) and told[-1] == (1, 2) and len(told) > 2


def test_what_cannot_be_measured_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"empty\.txt: holds no text"):
        compare_bits([model], [tmp_path / "empty.txt"], context=64)
    with pytest.raises(ValueError, match="beyond the model's"):
        compare_bits([model], [tmp_path / "empty.txt"], context=100_000)
    with pytest.raises(ValueError, match="given twice"):
        compare_bits([model], [tmp_path / "empty.txt"] * 2, context=64)
