"""The command line: what it prints, and how it fails. Training itself is tested in training/."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import zhuzi
from zhuzi.cli import cli, main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Runs `zhuzi` in this process, and undoes what it sets for the whole of it."""
    loggers = [logging.getLogger(name) for name in ("zhuzi", "zhuzi.train", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def call(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["zhuzi", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    with warnings.catch_warnings():
        yield call
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_help_names_every_command(run: Callable[..., Outcome]) -> None:
    shown = run("--help")
    assert shown.code == 0
    for name in ("vocab", "corpus", "model", "pretrain", "sft", "chat", "demo"):
        assert name in shown.out
    assert run("--version").out.strip() == f"zhuzi, version {zhuzi.__version__}"


def test_commands_stand_in_the_order_of_the_road(run: Callable[..., Outcome]) -> None:
    def listed(*group: str) -> list[str]:
        lines = run(*group, "--help").out.split("Commands:\n")[1].splitlines()
        return [line.split()[0] for line in lines if line[:2] == "  " and line[2:3].strip()]

    assert listed() == [
        *("vocab", "tokenize", "corpus", "model", "recipes", "pretrain", "instruct", "sft"),
        *("eval", "chat", "serve", "demo", "doctor"),
    ]
    assert listed("vocab") == ["extend", "train", "merge", "audit", "export"]
    assert listed("corpus") == ["encode", "verify", "merge", "export", "stats", "show"]
    assert listed("model") == ["extend", "merge", "convert", "export", "plan", "info"]


@pytest.mark.parametrize("columns", ["40", "80"])
def test_no_summary_is_cut(
    columns: str, run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for group in ([], ["vocab"], ["corpus"], ["model"]):
        assert "..." not in run(*group, "--help").out.split("Commands:\n")[1]


def test_every_command_and_option_has_help() -> None:
    def walk(command, path):  # type: ignore[no-untyped-def]
        assert command.help, path
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*path, name])

    walk(cli, ["zhuzi"])


def test_the_road_up_to_the_shards(
    run: Callable[..., Outcome], base_model_file: Path, chinese_file: Path, tmp_path: Path
) -> None:
    donor, tokenizer, corpus = tmp_path / "donor.model", tmp_path / "tok", tmp_path / "corpus"
    made = run("vocab", "train", chinese_file, "--out", donor, "--vocab-size", 3000)
    assert made.code == 0
    assert "3,000 pieces from 92 documents" in made.out
    made = run(
        "vocab", "merge", "--base", base_model_file, "--donor", donor, "--policy", "paper",
        "--add-token", "[PAD]", "--out", tokenizer,
    )  # fmt: skip
    assert made.code == 0
    assert "ids = 32,000 of the base" in made.out
    made = run("corpus", "encode", chinese_file, "--tokenizer", tokenizer, "--out", corpus)
    assert made.code == 0
    assert "92 documents" in made.out
    assert made.err == "", "no progress bar where nobody looks"
    assert len(zhuzi.Corpus(corpus)) == 92
    again = run("corpus", "encode", chinese_file, "--tokenizer", tokenizer, "--out", corpus, "--overwrite")
    assert again.code == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["vocab", "merge", "--base", "no.model", "--donor", "b.model", "--out", "x"], "no.model: No such"),
        (["vocab", "train", "no.txt", "--out", "x.model"], "no.txt: No such file"),
        (["corpus", "encode", "no.txt", "--tokenizer", "nowhere", "--out", "x"], "nowhere"),
        (["model", "extend", "--model", "./nowhere", "--tokenizer", ".", "--out", "x"], "nowhere: no such"),
        (["model", "merge", "--model", "./nowhere", "--adapter", ".", "--out", "x"], "nowhere"),
        (["pretrain", "no.yaml"], "no.yaml"),
        (["sft", "no.yaml"], "no.yaml"),
        (["demo", "--corpus", "no.jsonl"], "no.jsonl"),
        (["demo", "--base-tokenizer", "no.model"], "no.model"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_and_code_1(
    args: list[str], reason: str, run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = run(*args)
    assert failed.code == 1
    assert reason in failed.err
    assert failed.err.startswith("zhuzi: ")
    assert failed.err.count("\n") == 1, failed.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_trace(run: Callable[..., Outcome], tmp_path: Path) -> None:
    command = ["vocab", "train", tmp_path / "no.txt", "--out", tmp_path / "m"]
    for words in (["--debug", *command], [*command, "--debug"]):
        failed = run(*words)
        assert failed.code == 1
        assert "Traceback" in failed.err


def test_an_unknown_failure_is_one_line_too(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something\nnew")

    monkeypatch.setattr("zhuzi.vocab.train_vocab", fail)
    failed = run("vocab", "train", "x.txt", "--out", tmp_path / "m")
    assert failed.code == 1
    assert failed.err == "zhuzi: unexpected RuntimeError: something new (zhuzi --debug shows where)\n"


def zhuzi_process(*args: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zhuzi", *map(str, args)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def test_a_report_that_cannot_be_shown_is_no_failure(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("好")
    process = zhuzi_process(
        *["corpus", "encode", tmp_path / "in.txt", "--tokenizer", merged, "--out", tmp_path / "出"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_ctrl_c_while_the_command_line_loads_shows_no_trace() -> None:
    code = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed)\n"
        "from zhuzi.__main__ import main\n"
        "main()"
    )
    stopped = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert (stopped.returncode, stopped.stderr) == (130, "zhuzi: interrupted\n")
    assert '__main__:main"' in (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(
    "args",
    [
        ["vocab", "merge"],
        ["vocab", "merge", "--base", "a", "--donor", "b", "--out", "c", "--policy", "best"],
        ["corpus", "encode", "--out", "x"],
        ["nonsense"],
        ["chat", "--model", "m", "--top-p", "2"],
        ["--nonsense"],
        ["corpus", "encode", "", "--tokenizer", "t", "--out", "o"],
        ["demo", "--out", ""],
    ],
)
def test_wrong_usage_is_code_2(args: list[str], run: Callable[..., Outcome]) -> None:
    failed = run(*args)
    assert failed.code == 2
    assert "Usage:" in failed.err


@pytest.mark.parametrize(
    ("given", "models"),
    [
        (["--model", "a", "b", "--batch", "2", "--corpus", "-", "c"], ("a", "b")),
        (["--model", "a", "--model=b", "c", "--corpus", "-", "c", "--batch", "2"], ("a", "b", "c")),
    ],
)
def test_an_option_that_may_be_repeated_takes_several_values(
    given: list[str], models: tuple[str, ...]
) -> None:
    command = cli.commands["eval"].commands["bits"]  # type: ignore[attr-defined]
    context = command.make_context("bits", given)
    assert context.params["models"] == models and context.params["batch"] == 2
    assert context.params["corpora"] == (Path("-"), Path("c"))


def test_a_bad_recipe(run: Callable[..., Outcome], tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "task: pretrain\nmodel: m\ncorpus: c\noutput: o\nsteps: 1\nbatch_size: 1\nlearning_rat: 1\n"
    )
    failed = run("pretrain", recipe)
    assert failed.code == 1
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in failed.err


def test_a_missing_extra_is_named() -> None:
    hidden = "import sys; sys.modules['pydantic'] = None; from zhuzi.cli import main; main()"
    failed = subprocess.run(
        [sys.executable, "-c", hidden, "pretrain", "r.yaml"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert (
        failed.stderr == "zhuzi: this command needs pydantic; install it with: pip install 'zhuzi[train]'\n"
    )


def test_a_bad_record_through_the_real_process(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "好"}) + "\n{broken\n")
    command = ["corpus", "encode", "in.jsonl", "--tokenizer", str(merged), "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", "from zhuzi.cli import main; main()", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("zhuzi: in.jsonl: line 2 (byte ")
    assert not (tmp_path / "out").exists()
