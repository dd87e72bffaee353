"""Messages name options as keywords in Python and as flags at the command line."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zhuzi
from zhuzi.cli.options import flag
from zhuzi.errors import OUT, OVERWRITE, OutputExistsError, VocabSizeError, ZhuziError, message, naming


def test_a_message_made_in_python() -> None:
    error = naming(OutputExistsError, "x: taken; use ", OVERWRITE, ", or choose another ", OUT)
    for known in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(known, ZhuziError)
        assert str(known) == "x: taken; use overwrite=True, or choose another `out`"
        assert message(known, flag) == "x: taken; use --overwrite, or choose another --out"
    assert message(ValueError("plain"), flag) == "plain"


def test_flags() -> None:
    assert [flag("on_error", "skip"), flag("eos", False), flag("max_record_bytes", None)] == [
        "--on-error skip",
        "--no-eos",
        "--max-record-bytes",
    ]
    assert [flag("vocab_size", 29), flag("overwrite", True)] == ["--vocab-size 29", "--overwrite"]
    assert [flag("stdin_format", "txt"), flag("part", None)] == ["--stdin txt", "--task"]


def test_errors_of_the_core(merged: Path, tmp_path: Path) -> None:
    """The same error from Python and from the command line; every flag named there exists."""
    folder = tmp_path / "out"
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"text": "好"}\n')
    bad.write_text('{"content": "好"}\n')
    zhuzi.encode_corpus(good, merged, folder)
    long, apart = {"max_record_bytes": 4}, {"limit": 1, "part": (0, 2)}
    cases: list[tuple[Path, Path, dict[str, object], list[str], str, str]] = [
        (bad, tmp_path / "a", {}, [], "text with `field`: `content`", "text with --field: `content`"),
        (bad, folder, {}, [], "anew with overwrite=True, or choose", "anew with --overwrite, or choose"),
        (bad, folder, {}, [], "another `out`", "another --out"),
        (good, tmp_path / "b", long, ["--max-record-bytes", "4"], "`max_record_bytes`", "--max-record-bytes"),
        (good, tmp_path / "c", apart, ["--limit", "1", "--task", "0/2"], "(`part`, a Ray", "(--task, a Ray"),
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "zhuzi", "corpus", "encode", "--help"], capture_output=True, text=True
    ).stdout
    for path, out, options, flags, in_python, at_command_line in cases:
        with pytest.raises((ZhuziError, ValueError)) as raised:
            zhuzi.encode_corpus(path, merged, out, **options)  # type: ignore[arg-type]
        assert in_python in str(raised.value)
        said = message(raised.value, flag)
        assert at_command_line in said
        assert all(named in shown for named in re.findall("--[a-z-]+", at_command_line))
        command = ["corpus", "encode", path, "--tokenizer", merged, "--out", out, *flags]
        failed = subprocess.run(
            [sys.executable, "-m", "zhuzi", *map(str, command)], capture_output=True, text=True
        )
        assert at_command_line in failed.stderr, failed.stderr


@pytest.mark.parametrize(
    ("flags", "options", "in_python", "at_command_line"),
    [
        (
            ["--split", "separator"],
            {"split": "separator"},
            'split="separator" and `separator` belong together',
            "--split separator and --separator belong together",
        ),
        (["--min-han", "nan"], {"min_han": float("nan")}, "`min_han` must be", "--min-han must be"),
        (["--max-chars", str(1 << 64)], {"max_chars": 1 << 64}, "`max_chars` must be", "--max-chars must be"),
    ],
)
def test_options_out_of_range(
    flags: list[str],
    options: dict[str, object],
    in_python: str,
    at_command_line: str,
    merged: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=re.escape(in_python)):
        zhuzi.CorpusOptions(**options)  # type: ignore[arg-type]
    command = ["corpus", "encode", "x.txt", "--tokenizer", merged, "--out", tmp_path / "out", *flags]
    failed = subprocess.run(
        [sys.executable, "-m", "zhuzi", *map(str, command)], capture_output=True, text=True
    )
    assert at_command_line in failed.stderr, failed.stderr


def test_a_vocabulary_that_cannot_be_trained(tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "x.model"
    text.write_text("今天天气很好\n" * 20)
    with pytest.raises(VocabSizeError, match=r"ask for vocab_size=\d+ at most") as raised:
        zhuzi.train_vocab(text, out, vocab_size=500)
    for known in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert f"ask for --vocab-size {known.limit} at most" in message(known, flag)
