"""The documentation site: both languages have every page, and links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import zhuzi
from scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return load_script(ROOT / "tools" / "site.py", "zhuzi_site")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_both_languages_have_the_same_pages_and_all_links_lead_somewhere(
    site: ModuleType, tmp_path: Path
) -> None:
    for language in site.LANGUAGES:
        site.stage(language, tmp_path / language)
    assert files(tmp_path / "en") == files(tmp_path / "zh")
    for page in tmp_path.rglob("*.md"):
        code_aside = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", code_aside):
            assert (page.parent / target).exists(), f"{page.relative_to(tmp_path)}: {target}"


def test_chinese_pages_have_the_anchors_of_the_english_ones(site: ModuleType, tmp_path: Path) -> None:
    site.stage("zh", tmp_path)
    page = (tmp_path / "corpus.md").read_text("utf-8")
    assert "\n## 选项 { #options }\n" in page
    assert "[选项](#options)" in page
    assert "(../corpus.md#options)" in (tmp_path / "tutorials" / "corpus.md").read_text("utf-8")


def test_a_page_that_has_no_chinese_version_says_so(site: ModuleType, tmp_path: Path) -> None:
    site.stage("zh", tmp_path)
    assert "本页暂无中文版" in (tmp_path / "engine.md").read_text("utf-8")
    assert "本页暂无中文版" not in (tmp_path / "corpus.md").read_text("utf-8")


def test_chinese_pages_lead_to_chinese_pages() -> None:
    docs = ROOT / "docs"
    for page in (docs / "zh").rglob("*.md"):
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+\.md)", page.read_text("utf-8")):
            found = (page.parent / target).resolve()
            if found.is_relative_to(docs) and not found.is_relative_to(docs / "zh"):
                chinese = docs / "zh" / found.relative_to(docs)
                assert not chinese.exists(), f"{page.name}: {target} is there in Chinese"


def code_of(page: Path) -> tuple[list[str], set[str]]:
    """Blocks without their comments, and what is set as code within lines."""
    text = page.read_text("utf-8")
    found = re.findall(r"^```\w+\n(.*?)^```$", text, re.M | re.S)
    lines = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).replace("\n", " ")
    return [re.sub(r"(^|\s+)#.*", "", b, flags=re.M) for b in found], set(re.findall(r"`([^`]+)`", lines))


def test_chinese_pages_name_the_same_commands_options_and_figures_of_code() -> None:
    """What a translation lacks since its original has changed, as far as it can be seen without reading."""
    docs = ROOT / "docs"
    for page in (docs / "zh").rglob("*.md"):
        (english, inline), (chinese, known) = code_of(docs / page.relative_to(docs / "zh")), code_of(page)
        if page.parent.name != "tutorials":  # test_tutorials compares these, block by block
            assert [b for b in english if b.isascii()] == [b for b in chinese if b.isascii()], page.name
        assert {c for c in inline - known if c.isascii()} <= {"# needs"}, page.name


def test_a_chinese_line_is_joined_to_the_next(site: ModuleType) -> None:
    assert site.BREAK.sub("", "训练，\n微调。\n\nAlpaca\n记录") == "训练，微调。\n\nAlpaca\n记录"


def test_a_pipe_within_code_needs_no_backslash(site: ModuleType) -> None:
    assert site.with_pipes("| `a\\|b` | c |\n`d\\|e`") == "| `a|b` | c |\n`d\\|e`"


def test_the_api_has_every_public_name(site: ModuleType) -> None:
    pages = site.api_pages()
    directives = set(re.findall(r"^::: (\S+)$", "\n".join(page.text for page in pages), re.M))
    linked = set(re.findall(r"\[`zhuzi\.\w+`\]\[(\S+)\]", site.api_index(pages)))
    assert linked <= directives
    homes = {name.rsplit(".", 1)[1] for name in linked}
    modules = {page.titles["en"].removeprefix("zhuzi.") for page in pages}
    assert set(zhuzi.__all__) - {"__version__"} <= homes | modules


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    python = ROOT / ".venv-docs" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs the environment that `make docs` sets up")
    done = subprocess.run(
        [str(python), str(ROOT / "tools" / "site.py"), "--out", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "zh" / "api" / "corpus.html").read_text("utf-8")
    assert 'id="zhuzi.corpus.encode_corpus"' in page and 'lang="zh"' in page
    assert 'src="http' not in page and "@import" not in page
