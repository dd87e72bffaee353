"""Build the documentation site: in English into OUT, in Chinese into OUT/zh.

    PYTHON tools/site.py [--out site]

docs/site.toml says what is on it. The pages are those of docs/, which GitHub shows as well; links that lead
out of docs/ (to DESIGN.md, say) lead to the site's copies. The reference of the Python API is generated from
the docstrings, which griffe reads from the sources: neither zhuzi nor torch is imported, no Rust is built.
Nothing is fetched. A link or an anchor that leads nowhere, a page that is in no section, a translated page
with other headings than its original, and any warning end the build.

The pages of both languages have the same paths and anchors, so that the switch of languages stays on a page.
"""

from __future__ import annotations

import argparse
import ast
import json
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "python" / "zhuzi"
RECIPES = PACKAGE / "recipes"

#: The languages of the site: the first is at its root.
LANGUAGES = {"en": "English", "zh": "中文"}

#: A line that ends in Chinese, where the next begins so: browsers would put a space between them.
BREAK = re.compile(
    r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”‘’…])\n(?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”‘’])"
)

UNTRANSLATED = '!!! note "本页暂无中文版"\n\n    下面是英文原文。\n'

#: What Zensical says of a build without faults.
QUIET = ("Build started", "Build finished", "No issues found")

#: Where other pages lead out of docs/ to what is a page of the site under another name.
ELSEWHERE = {"README.md": "index.md", "README.zh.md": "index.md", "python/zhuzi/recipes": "recipes.md"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "site", help="folder to write; replaced if it is there"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zhuzi-site-") as work:
        built = [build(language, Path(work) / language) for language in LANGUAGES]
        if args.out.exists():
            if not (args.out / "objects.inv").exists():
                sys.exit(
                    f"{args.out}: exists and is no site of an earlier build; name another folder with --out"
                )
            shutil.rmtree(args.out)
        for language, folder in zip(LANGUAGES, built, strict=True):
            shutil.copytree(folder, args.out / prefix(language), dirs_exist_ok=True)
    sys.stdout.write(f"{args.out / 'index.html'}: open it in a browser\n")


def prefix(language: str) -> str:
    """The folder of a language in the site."""
    return "" if language == next(iter(LANGUAGES)) else language


@dataclass
class Page:
    """A page of the site."""

    file: str
    """Its path in the site of each language."""
    titles: dict[str, str]
    origin: str = ""
    """Its English source, from the root of the repository; empty if the page is generated."""
    text: str = ""
    """The text of a generated page."""
    children: list[Page] = field(default_factory=list)


def contents() -> tuple[dict[str, Any], list[tuple[dict[str, str], list[Page]]]]:
    """Settings, and the sections of the site with their pages."""
    settings = tomllib.loads((DOCS / "site.toml").read_text("utf-8"))
    sections = []
    for section in settings["section"]:
        pages = []
        for entry in section["pages"]:
            name = entry["file"]
            page = Page(name, {language: entry[language] for language in LANGUAGES})
            if name == "api/index.md":
                page.children = api_pages()
                page.text = api_index(page.children)
            elif name == "recipes.md":
                page.text = recipes_page()
            else:
                page.origin = entry.get("from", f"docs/{name}")
            pages.append(page)
        sections.append((section["title"], pages))
    return settings, sections


def pages_of(sections: list[tuple[dict[str, str], list[Page]]]) -> Iterator[Page]:
    """All pages."""
    for _, pages in sections:
        for page in pages:
            yield page
            yield from page.children


# ---- the pages of a language


@dataclass
class Site:
    """Where things are in the site of a language."""

    folder: Path
    places: dict[str, str]
    """The page, or other file, for each path of the repository."""
    anchors: dict[str, dict[str, str]]
    """For each translated page its own anchors, and those it has in the site."""


def stage(language: str, folder: Path) -> tuple[dict[str, Any], list[tuple[dict[str, str], list[Page]]]]:
    """Write all pages of a language and their pictures into `folder`, their links made to fit."""
    settings, sections = contents()
    pages = list(pages_of(sections))
    require_all(pages)
    site = Site(folder, dict(ELSEWHERE), {})
    for page in pages:
        if page.origin:
            translated = in_language(page.origin, language)
            site.places[page.origin] = site.places[translated] = page.file
            site.anchors[translated] = anchors(page.origin, translated)
    for picture in DOCS.glob("*.svg"):
        drawn = in_language(f"docs/{picture.name}", language)
        site.places[f"docs/{picture.name}"] = site.places[drawn] = picture.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / drawn, folder / picture.name)
    shutil.copytree(
        DOCS / "theme", folder / "theme", ignore=shutil.ignore_patterns("*.html"), dirs_exist_ok=True
    )
    for page in pages:
        target = folder / page.file
        target.parent.mkdir(parents=True, exist_ok=True)
        text = text_of(page, language, site) if page.origin else page.text
        target.write_text(text, "utf-8")
    return settings, sections


def require_all(pages: list[Page]) -> None:
    """Every page of docs/ must be in the site."""
    known = {page.origin for page in pages}
    for path in sorted(DOCS.rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        if name not in known and name.replace("docs/zh/", "docs/") not in known:
            sys.exit(f"{name}: the page is in no section of docs/site.toml")


def text_of(page: Page, language: str, site: Site) -> str:
    """What a page of docs/ is in the site of a language."""
    source = in_language(page.origin, language)
    text = (ROOT / source).read_text("utf-8")
    if language == "zh" and source == page.origin:
        text = re.sub(r"\A(# .*\n)", lambda found: f"{found[1]}\n{UNTRANSLATED}", text)
    text = with_links(text, source, page.file, site)
    return with_anchors(outside_code(text, with_pipes), site.anchors[source])


def with_pipes(text: str) -> str:
    """Tables whose code holds `|` as it is: GitHub needs a backslash before it, which the site would show."""
    rows = re.compile(r"^\|.*$", re.M)
    code = re.compile(r"`[^`]+`")
    return rows.sub(lambda row: code.sub(lambda part: part[0].replace(r"\|", "|"), row[0]), text)


def in_language(origin: str, language: str) -> str:
    """The source of a page or picture in a language, English if there is no other."""
    other = origin.replace("docs/", f"docs/{language}/", 1)
    return other if language != "en" and (ROOT / other).exists() else origin


def headings(text: str) -> list[tuple[str, str]]:
    """The headings of a page, as `##` and its words."""
    return re.findall(r"^(#+) (.+?) *$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)


def anchor(heading: str) -> str:
    """The anchor that GitHub and the site give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(origin: str, translated: str) -> dict[str, str]:
    """For each anchor of a translated page that of the original, which is the anchor in both sites."""
    if origin == translated:
        return {}
    ours, theirs = (headings((ROOT / name).read_text("utf-8")) for name in (translated, origin))
    if [level for level, _ in ours] != [level for level, _ in theirs]:
        sys.exit(
            f"{translated}: its headings are not those of {origin}; translate what has changed, "
            "or remove the page: the English one is shown then"
        )
    return {anchor(mine): anchor(yours) for (_, mine), (_, yours) in zip(ours, theirs, strict=True)}


def with_anchors(text: str, known: dict[str, str]) -> str:
    """A translated page whose headings have the anchors of the original."""

    def named(found: re.Match[str]) -> str:
        return f"{found[0].rstrip()} {{ #{known[anchor(found[2].strip())]} }}"

    return outside_code(text, lambda part: re.sub(r"^(#+) (.+)$", named, part, flags=re.M)) if known else text


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """A page with what is not code changed."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def with_links(text: str, source: str, page: str, site: Site) -> str:
    """The text of a page with its links to other files of the repository as links between pages.

    A file that is no page, such as a table of results, is copied beside the pages.
    """

    def moved(found: re.Match[str]) -> str:
        opening, name, fragment = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), name)) if name else source
        if target not in site.places and (ROOT / target).is_file() and not target.endswith(".md"):
            site.places[target] = f"files/{target}"
            (site.folder / site.places[target]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / target, site.folder / site.places[target])
        if target not in site.places:
            line = text[: text.find(found[0])].count("\n") + 1
            sys.exit(f"{source}, line {line}: {name} is on no page of the site; see docs/site.toml")
        fragment = fragment and "#" + site.anchors.get(target, {}).get(fragment[1:], fragment[1:])
        place = posixpath.relpath(site.places[target], posixpath.dirname(page) or ".") if name else ""
        return f"{opening}{place}{fragment}"

    link = re.compile(r"(\]\()(?![a-z]+:)([^)#\s]*)(#[^)\s]*)?")
    return outside_code(text, lambda part: BREAK.sub("", link.sub(moved, part)))


# ---- generated pages


def public_names(module: Path) -> list[str]:
    """The names in `__all__` of a module, read without running it."""
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def module_file(name: str) -> Path:
    """The file of a module of zhuzi."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def homes() -> dict[str, str]:
    """For each public name of `zhuzi` itself, the public module that has it too."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "zhuzi._lazy":
            for alias in node.names:
                found[alias.name] = node.module or ""
    return found


def public_modules() -> list[str]:
    """The public modules."""
    own = {name for name in public_names(PACKAGE / "__init__.py") if module_file(f"zhuzi.{name}").exists()}
    # `eval` and `hf` are public, but not in __all__: see the comments there. `Endpoint` has no other home.
    return sorted(f"zhuzi.{name}" for name in own | {"endpoint", "eval", "hf"})


def api_pages() -> list[Page]:
    """A page for each public module."""
    pages = []
    for module in public_modules():
        tree = ast.parse(module_file(module).read_text("utf-8"))
        names = public_names(module_file(module)) or [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        ]
        text = f"# `{module}`\n\n{ast.get_docstring(tree)}\n\n"
        text += "\n".join(f"::: {module}.{name}\n" for name in names)
        pages.append(
            Page(f"api/{module.removeprefix('zhuzi.')}.md", dict.fromkeys(LANGUAGES, module), text=text)
        )
    return pages


def api_index(pages: list[Page]) -> str:
    """The page of `zhuzi` itself: its names, and where each is described."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    text = f"# `zhuzi`\n\n{ast.get_docstring(tree)}\n\n| module | what |\n|---|---|\n"
    for page in pages:
        module = page.titles["en"]
        docstring = ast.get_docstring(ast.parse(module_file(module).read_text("utf-8"))) or ""
        summary = " ".join(docstring.split("\n\n")[0].split())
        text += f"| [`{module}`]({posixpath.basename(page.file)}) | {summary} |\n"
    text += "\n## Names of `zhuzi` itself\n\n| name | described with |\n|---|---|\n"
    where = homes()
    for name in sorted(public_names(PACKAGE / "__init__.py"), key=str.lower):
        home = where.get(name)
        if home in public_modules():
            page = home.removeprefix("zhuzi.")
            text += f"| [`zhuzi.{name}`][{home}.{name}] | [`{home}`]({page}.md) |\n"
    return text


def recipes_page() -> str:
    """The recipes that come with the package, as they are."""
    text = "# Recipes\n\n`zhuzi recipes list` names them, `zhuzi recipes copy NAME` writes one to a file, "
    text += (
        "`zhuzi model plan NAME` says what it needs. [Training](training.md#recipes) explains every key.\n"
    )
    for path in sorted(RECIPES.glob("*.yaml")):
        text += f"\n## {path.stem}\n\n```yaml\n{path.read_text('utf-8').rstrip()}\n```\n"
    return text


# ---- the build


def build(language: str, work: Path) -> Path:
    """Build the site of a language in a folder of its own; gives the folder of its pages."""
    settings, sections = stage(language, work / "docs")
    nav: list[dict[str, Any]] = []
    for title, pages in sections:
        entries: list[Any] = [{page.titles[language]: listed(page, language)} for page in pages]
        single = len(pages) == 1
        nav.append({title[language]: pages[0].file if single else entries})
    config = settings["zensical"]
    config |= {
        "site_name": settings["name"][language],
        "site_description": settings["description"][language],
        "docs_dir": "docs",
        "site_dir": "site",
        "nav": nav,
    }
    config["theme"] |= {"language": language, "custom_dir": "theme"}
    home = "." if prefix(language) == "" else ".."
    config["extra"] = {
        "alternate": [
            {"name": name, "lang": code, "link": posixpath.normpath(f"{home}/{prefix(code)}")}
            for code, name in LANGUAGES.items()
        ]
    }
    python = config["plugins"]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT / path) for path in python["paths"]]
    shutil.copytree(DOCS / "theme", work / "theme", ignore=shutil.ignore_patterns("*.css"))
    # YAML holds JSON, for which Python has a writer.
    file = work / "mkdocs.yml"
    file.write_text(json.dumps(config, ensure_ascii=False, indent=1), "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(file)]
    done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    faults = [line for line in done.stdout.splitlines() if not line.startswith(QUIET)]
    if done.returncode or any(faults):
        sys.exit(f"{done.stdout}\nthe site in {LANGUAGES[language]} has the faults above")
    return work / "site"


def listed(page: Page, language: str) -> Any:
    """A page's entry in the navigation."""
    if not page.children:
        return page.file
    return [page.file, *({child.titles[language]: child.file} for child in page.children)]


if __name__ == "__main__":
    main()
