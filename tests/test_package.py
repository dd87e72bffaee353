"""What importing costs and offers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import zhuzi
from zhuzi._show import count


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


def test_every_public_name_is_there() -> None:
    for name in zhuzi.__all__:
        assert getattr(zhuzi, name) is not None
    assert set(zhuzi.__all__) <= set(dir(zhuzi))
    assert zhuzi.__version__ == version("zhuzi")


def test_counts_have_the_right_plural() -> None:
    assert count(1, "shard") == "1 shard"
    assert count(0, "shard") == "0 shards"
    assert count(2000, "entry", "entries") == "2,000 entries"
