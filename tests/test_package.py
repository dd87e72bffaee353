"""What importing costs and offers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import pytest

import zhuzi
from zhuzi._show import Report, count
from zhuzi.corpus import ExportedCorpus


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_brings_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "numpy", "pyarrow", "sentencepiece", "pydantic", "click", "matplotlib"]
    code = f"import sys, zhuzi; zhuzi.Tokenizer; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, zhuzi.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_modules_and_errors_are_there_after_import() -> None:
    code = (
        "import sys, zhuzi\n"
        "print([m for m in ('zhuzi.corpus', 'zhuzi.shards', 'zhuzi.errors') if m in sys.modules])\n"
        "print(zhuzi.corpus.verify_corpus, zhuzi.errors.InputError is zhuzi.InputError)\n"
        "print(zhuzi.vocab.train_vocab, zhuzi.model, zhuzi.train, zhuzi.corpus.CorpusStats)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    first, second, _, last = run(code).splitlines()
    assert (first, last) == ("[]", "[]")
    assert "True" in second
    for name in zhuzi.errors.__all__:
        assert getattr(zhuzi, name) is getattr(zhuzi.errors, name)
    with pytest.raises(AttributeError, match="module 'zhuzi' has no attribute 'nonsense'"):
        zhuzi.nonsense  # noqa: B018
    assert set(zhuzi.corpus.__all__) <= set(dir(zhuzi.corpus))


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [("chat", "infer", "Chat"), ("evaluate", "eval", "bits_per_byte"), ("shards", "corpus", "Corpus")],
)
def test_names_before_0_2_work_and_name_their_replacement(old: str, new: str, name: str) -> None:
    said = f"zhuzi.{old} is now zhuzi.{new}"
    code = f"from zhuzi.{old} import {name}; import zhuzi.{new}; print({name} is zhuzi.{new}.{name})"
    assert run(code).strip() == "True"
    with pytest.warns(DeprecationWarning, match=said):
        sys.modules.pop(f"zhuzi.{old}", None)
        importlib.import_module(f"zhuzi.{old}")
    assert getattr(zhuzi, old) is sys.modules[f"zhuzi.{old}"], "an attribute after import zhuzi, as before"


def test_every_public_name_is_there() -> None:
    for name in zhuzi.__all__:
        assert getattr(zhuzi, name) is not None
    assert set(zhuzi.__all__) <= set(dir(zhuzi))
    assert zhuzi.__version__ == version("zhuzi")


def test_counts_have_the_right_plural() -> None:
    assert count(1, "shard") == "1 shard"
    assert count(0, "shard") == "0 shards"
    assert count(2000, "entry", "entries") == "2,000 entries"


class TestReports:
    """What functions return says its main figure on a line, and all figures in a table."""

    reports: ClassVar[list[tuple[object, str, str]]] = [
        (
            ExportedCorpus(Path("<out>"), 3, 12, 0),
            "ExportedCorpus(<out>: 3 rows, 12 tokens)",
            "<td>&lt;out&gt;</td>",
        ),
    ]

    @pytest.mark.parametrize(("report", "line", "row"), reports)
    def test_line_and_table(self, report: Report, line: str, row: str) -> None:
        assert repr(report) == line
        assert row in report._repr_html_()

    def test_long_lists_are_cut_in_the_table(self) -> None:
        report = ExportedCorpus(Path("out"), 3, 12, tuple(range(20)))  # type: ignore[arg-type]
        assert "6, 7, and 12 more" in report._repr_html_()

    def test_a_corpus(self, merged: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("好")
        made = zhuzi.encode_corpus(tmp_path / "a.txt", merged, tmp_path / "out")
        folder = made.folder
        corpus = zhuzi.Corpus(folder)
        tokens = f"{corpus.tokens} tokens"
        assert repr(made) == f"EncodedCorpus({folder}: finished, 1 document, {tokens} in 1 shard)"
        assert "<tr><th>documents</th><td>1</td></tr>" in made._repr_html_()
        plan = zhuzi.corpus.plan_corpus([tmp_path / "a.txt"], merged)
        assert repr(plan).startswith(f"CorpusPlan(1 file, about 1 document, {tokens}, ")
        assert repr(corpus) == f"Corpus({folder}: 1 document, {corpus.tokens} tokens)"
        assert "<tr><th>type of the ids</th><td>uint16</td></tr>" in corpus._repr_html_()
