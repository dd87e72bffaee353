"""What the README and examples say is run; what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import zhuzi
from zhuzi.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(
    page: Path, mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in re.findall(r"zhuzi ((?:[a-z]+ ?)+)([^\n`]*)", page.read_text("utf-8")):
        words, rest = line[0].split(), line[1]
        command = cli
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        if command is cli or hasattr(command, "commands"):
            continue  # prose
        known = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"(--[a-z-]+)", rest.split("#")[0]):
            assert option in known | {"--help", "--debug"}, f"{page.name}: zhuzi {line}"


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "DESIGN.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_lists_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    for name in zhuzi.__all__:
        assert name.startswith("__") or f"zhuzi.{name}`" in text, name


def test_the_road_is_drawn_from_its_script(tmp_path: Path) -> None:
    script = tmp_path / "draw_road.py"
    script.write_text((ROOT / "docs" / "draw_road.py").read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "road.svg").read_text("utf-8") == (ROOT / "docs" / "road.svg").read_text("utf-8")


def test_the_encoding_example(merged: Path, chinese_file: Path, tmp_path: Path) -> None:
    script = ROOT / "examples" / "encode_and_read.py"
    done = subprocess.run(
        [sys.executable, str(script), str(merged), str(tmp_path / "out"), str(chinese_file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("92 documents")
    assert "tokens: '" in done.stdout
