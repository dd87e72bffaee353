"""What the README and examples say is run; what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import zhuzi
from scripts import load_script
from zhuzi.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Those whose programs need nothing that earlier commands made; tests/test_tutorials.py runs the others.
ALONE = [page for page in PAGES if page.parent.name != "tutorials"]
OTHER_PAGES = ("DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "benches/RESULTS.md", "benches/LOG.md")


def path_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


@pytest.mark.parametrize("page", ALONE, ids=path_of)
def test_python_blocks_run(
    page: Path, mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}  # a page is read from top to bottom
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=path_of)
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
    for page in [*PAGES, *(ROOT / name for name in OTHER_PAGES)]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_lists_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    for name in zhuzi.__all__:
        assert name.startswith("__") or f"zhuzi.{name}`" in text, name


@pytest.mark.parametrize("name", ["road", "example"])
def test_pictures_are_drawn_by_their_scripts(name: str, mistral: Path, tmp_path: Path) -> None:
    script = tmp_path / f"draw_{name}.py"
    script.write_text((ROOT / "docs" / script.name).read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, str(script)], check=True)
    for drawn in tmp_path.rglob("*.svg"):
        stored = ROOT / "docs" / drawn.relative_to(tmp_path)
        assert drawn.read_text("utf-8") == stored.read_text("utf-8")
    assert (tmp_path / f"{name}.svg").exists()


def test_the_picture_of_the_engine_shows_the_example_of_its_page() -> None:
    page, drawing = (ROOT / "docs" / name for name in ("engine.md", "draw_example.py"))
    shown = re.search(r"APPENDED = .*", drawing.read_text("utf-8"))
    assert shown and shown[0] in page.read_text("utf-8")
    ids = re.search(r"ids == \[(.*)\]", page.read_text("utf-8"))
    assert ids
    picture = (ROOT / "docs" / "example.svg").read_text("utf-8")
    assert all(f">{id}<" in picture for id in ids[1].split(", "))


@pytest.fixture
def make_results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    return load_script(ROOT / "benches" / "make_results.py", "make_results")


def test_results_are_made_from_their_records(make_results: ModuleType) -> None:
    records = json.loads((ROOT / "benches" / "results.json").read_text("utf-8"))
    assert (ROOT / "benches" / "RESULTS.md").read_text("utf-8") == make_results.page(records)
    assert (ROOT / "docs" / "speed.svg").read_text("utf-8") == make_results.picture(records)


def test_the_readme_gives_the_headline_figures(make_results: ModuleType) -> None:
    records = json.loads((ROOT / "benches" / "results.json").read_text("utf-8"))
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text("utf-8")
        for what, figure in make_results.headline(records).items():
            if what != "corpus x gigatoken":  # which writes nothing
                assert f"{figure:g}" in text, f"{name}: {what} {figure}"


def test_both_readmes_have_the_same_commands_and_links() -> None:
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))

    def commands(page: Path) -> list[str]:
        found = re.findall(r"```\w+\n(.*?)```", page.read_text("utf-8"), re.S)
        return [re.sub(r" *# .*", "", block) for block in found]

    def links(page: Path) -> list[str]:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        # A page that is there in Chinese is linked so.
        return [link.replace("docs/zh/", "docs/") for link in re.findall(r"\]\(([^)]+)\)", text)]

    def quoted(page: Path) -> set[str]:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
        return set(re.findall(r"`([^`]+)`", text))

    assert commands(english) == commands(chinese)
    assert links(english)[1:] == links(chinese)[1:]
    assert (links(english)[0], links(chinese)[0]) == (chinese.name, english.name)
    assert quoted(english) == quoted(chinese)


def test_every_record_says_where_it_comes_from() -> None:
    for record in json.loads((ROOT / "benches" / "results.json").read_text("utf-8")):
        for key in ("bench", "table", "label", "date", "commit", "command", "machine", "load", "versions"):
            assert key in record, record["table"]
        script = record["command"].split()[1]
        assert (ROOT / script).exists(), script
        assert all(len(row) == len(record["columns"]) for row in record["rows"]), record["table"]


def test_a_recorded_table_is_what_the_page_shows(make_results: ModuleType, tmp_path: Path) -> None:
    recording = load_script(ROOT / "benches" / "recording.py", "recording")
    file = tmp_path / "results.json"
    file.write_text((ROOT / "benches" / "results.json").read_text("utf-8"), "utf-8")
    columns = ["documents of", "MB", "sentencepiece MB/s", "zhuzi MB/s", "zhuzi / sentencepiece"]
    recorder = recording.Recorder("encode", "mixed", file)
    recorder.table("length", "By document length", columns, [("7 bytes", 1.0, 2.5, 1234.5, 494)], rounds=1)
    records = json.loads(file.read_text("utf-8"))
    page = make_results.page(records)
    assert "| 7 bytes | 1.0 | 2.5 | 1,234.5 | 494 |" in page
    assert records[-1]["machine"] in page  # the page's own machine is another
    recording.save(records, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    recorder = recording.Recorder("training", "7b, 16 sequences", file)
    recorder.table("training", "Training", ["variant", "tokens/s"], [("new", 5)], rounds=1, device="cpu")
    page = make_results.page(json.loads(file.read_text("utf-8")))
    assert "## Training\n" in page and "7b, 16 sequences:\n\n| variant | tokens/s |" in page


def test_the_tree_of_contributing_is_that_of_the_folders() -> None:
    tree = re.search(r"```\n(rust/core/.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.S)
    assert tree
    named: set[str] = set()
    above = {0: ""}  # the folder that lines of an indentation are in
    for line in tree[1].splitlines():
        depth = len(line) - len(line.lstrip())
        names = re.split(r"  +", line.strip())[0].split(" ")
        assert depth in above, line
        named.update(above[depth] + name.rstrip("/") for name in names)
        above[depth + 2] = above[depth] + names[0]
    for name in named:
        assert (ROOT / name).exists(), name
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    folders = {str(parent) for line in done.stdout.splitlines() for parent in Path(line).parents} - {"."}
    top = {folder.split("/")[0] for folder in folders}
    assert top <= {name.split("/")[0] for name in named}
    inside = {f for f in folders if f.startswith(("rust/core/src/", "python/zhuzi/"))}
    assert inside - named <= {"python/zhuzi/demo/data", "python/zhuzi/instruct/data"}


def test_the_functions_that_the_design_names_exist() -> None:
    table = (ROOT / "DESIGN.md").read_text("utf-8").split("## Where things happen\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .+ \| `(.+)` \| (`.+`) \|$", table, re.M)
    assert len(rows) > 20
    for file, functions in rows:
        code = (ROOT / file).read_text("utf-8")
        for name in re.findall(r"`([^`]+)`", functions):
            assert re.search(rf"\b(fn|def|class|struct|enum) {name}\b", code), f"{file}: {name}"


def test_the_files_that_the_engine_names_exist() -> None:
    core = ROOT / "rust" / "core" / "src"
    for name in re.findall(r"`([a-z0-9_/]+\.rs|[a-z]+/)`", (ROOT / "docs" / "engine.md").read_text("utf-8")):
        assert (core / "bpe" / name).exists() or (core / name).exists(), name


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
