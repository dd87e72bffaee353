"""The tutorials, typed line by line: each block is run, and its output is what the page shows.

A block whose first line is a comment `# needs ...` (`# 需要……`) is not run; the page says what it needs.
In the output that a page shows, `…` stands for anything, and lines may be left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = ("corpus", "teach", "use")
NEEDS = re.compile(r"# (needs|需要)")


class Block(NamedTuple):
    """A block of a page, and the output shown below it."""

    language: str
    code: str
    shown: list[str]

    @property
    def runs(self) -> bool:
        return not NEEDS.match(self.code)


def blocks(page: Path) -> Iterator[Block]:
    """The commands and programs of a page, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    for number, (language, code) in enumerate(found):
        if language in ("bash", "python"):
            follows = found[number + 1] if number + 1 < len(found) else ("", "")
            yield Block(language, code, follows[1].splitlines() if follows[0] == "text" else [])


def script(page: Path) -> str:
    """A page as one shell script, in which a line of its own ends the output of each block."""
    parts = ["exec 2>&1"]
    for number, block in enumerate(blocks(page)):
        if block.runs:
            code = block.code
            if block.language == "python":
                code = f"python - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK\n"
            parts.append(f"{code}echo; echo '=== end of block {number}'")
    return "\n".join(parts)


def follow(name: str, folder: Path) -> None:
    """Do what a tutorial says, in `folder`, and compare."""
    page = DOCS / "tutorials" / f"{name}.md"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(page)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    outputs = re.split(r"^=== end of block \d+\n", done.stdout, flags=re.M)
    for block, output in zip([b for b in blocks(page) if b.runs], outputs, strict=False):
        lines = [line.strip() for line in output.splitlines()]
        for line in filter(None, map(str.strip, block.shown)):
            pattern = re.escape(line).replace("…", ".*")
            assert any(re.fullmatch(pattern, each) for each in lines), f"{line}\nis not in\n{output}"


def test_the_first_tutorial(mistral: Path, tmp_path: Path) -> None:
    follow("corpus", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorials_one_after_the_other(mistral: Path, tmp_path: Path) -> None:
    """Teaching and using a model, at the size of a CPU."""
    pytest.importorskip("torch")
    for name in TUTORIALS[1:]:
        follow(name, tmp_path)


@pytest.mark.parametrize("name", TUTORIALS)
def test_both_languages_have_the_same_commands_and_outputs(name: str) -> None:
    def plain(page: Path) -> list[Block]:
        return [
            Block(block.language, re.sub(r"(^|  +)#.*", "", block.code, flags=re.M), block.shown)
            for block in blocks(page)
        ]

    assert plain(DOCS / "tutorials" / f"{name}.md") == plain(DOCS / "zh" / "tutorials" / f"{name}.md")


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_is_not_run_says_what_it_needs(name: str) -> None:
    skipped = [block for block in blocks(DOCS / "tutorials" / f"{name}.md") if not block.runs]
    assert skipped
    for block in skipped:
        assert re.match(r"# needs \S", block.code)
