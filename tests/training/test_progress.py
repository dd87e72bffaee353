"""Who is told how far a training is, and where."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from zhuzi.train import TrainState, progress
from zhuzi.train.log import LogProgress
from zhuzi.train.progress import bar, tell


def test_a_script_without_logging_is_told_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tell("step 1 of 2")
    assert caplog.messages == ["step 1 of 2"] and capsys.readouterr().err == ""
    monkeypatch.setattr(progress._log, "propagate", False)  # as if nobody had set up a handler
    tell("step 2 of 2")
    assert capsys.readouterr().err == "step 2 of 2\n"
    monkeypatch.setenv("RANK", "1")
    tell("the first process has said it")
    assert capsys.readouterr().err == ""


def test_a_bar_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ipykernel", "google.colab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert bar(3, 0, None) is None and bar(3, 0, False) is None
    shown = bar(3, 1, True)
    assert (shown.n, shown.total) == (1, 3)
    shown.close()
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(progress, "find_spec", lambda name: None)  # a notebook without ipywidgets
    in_notebook = bar(3, 0, None)
    assert in_notebook.total == 3 and bar(3, 0, False) is None
    in_notebook.close()


def test_lines_and_errors_do_not_follow_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress._log, "hasHandlers", lambda: False)
    logs = LogProgress(tmp_path / "log.jsonl", progress=True)
    state = TrainState(steps=9, step=1, evaluations=[{"step": 1, "loss": 2.0, "bits_per_byte": {}}])
    logs.on_train_begin(state)
    logs.on_evaluate(state)
    logs.close()
    shown = capsys.readouterr().err
    assert "\rstep 1, evaluation: loss 2.0000\n" in shown and shown.endswith("\n")


def test_a_bar_shows_an_evaluation_and_then_the_step_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress._log, "hasHandlers", lambda: False)
    monkeypatch.setattr("zhuzi.train.log.EVERY_OF_A_BAR", 0.0)
    logs = LogProgress(tmp_path / "log.jsonl", progress=True)
    figures = {"loss": 1.5, "learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": 9.0}
    entry = {"step": 1, **figures, "memory_bytes": 1 << 30, "seconds_left": 9.0}
    state = TrainState(steps=9, step=1, history=[entry], evaluations=[])
    logs.on_train_begin(state)
    logs.on_log(state)
    logs.evaluating("evaluating en.txt, 3 of 64 documents")
    state.evaluations.append({"step": 1, "loss": 2.0, "bits_per_byte": {}, "seconds": 12.3})
    logs.on_evaluate(state)
    logs.close()
    shown = capsys.readouterr().err
    assert ", evaluating en.txt, 3 of 64 documents]" in shown and "loss 2.0000, 12.3 s\n" in shown
    assert "loss 1.5000" in shown[shown.rindex("\r") :]


def test_a_step_that_fp16_skips_is_logged_as_json(tmp_path: Path) -> None:
    entry = {"step": 1, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": math.inf}
    LogProgress(tmp_path / "log.jsonl", progress=False).on_train_begin(TrainState(steps=2, history=[entry]))
    logged = (tmp_path / "log.jsonl").read_text()
    assert logged == '{"step": 1, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": null}\n'
