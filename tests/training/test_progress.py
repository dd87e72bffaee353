"""Who is told how far a training is, and where."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest

from zhuzi.train import progress
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
