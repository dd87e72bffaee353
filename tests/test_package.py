"""What importing costs and offers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import zhuzi


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_brings_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "numpy", "pyarrow", "sentencepiece", "pydantic", "click", "matplotlib"]
    code = f"import sys, zhuzi; zhuzi.Tokenizer; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, zhuzi.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in zhuzi.__all__:
        assert getattr(zhuzi, name) is not None
    assert set(zhuzi.__all__) <= set(dir(zhuzi))
    assert zhuzi.__version__ == version("zhuzi")
