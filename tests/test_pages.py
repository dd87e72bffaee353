"""HTML pages: one file that needs nothing beside it, in two languages, with charts that can be read."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

pytest.importorskip("jinja2", reason="HTML pages need the extra `pages`")

import jinja2
from markupsafe import Markup

from zhuzi.pages import Line, bar_chart, line_chart, moving_average, render, t, table, tokens
from zhuzi.pages.page import _environment
from zhuzi.record.marks import HTML_MARK

_OPEN = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"}


class Balanced(HTMLParser):
    """Fails where an element is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _OPEN:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def require_self_contained(html: str) -> None:
    """Nothing is loaded from elsewhere, and the page opens anywhere."""
    Balanced(html)
    assert not re.search(r"""(src|href|srcset|action)\s*=""", html)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?:", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html
    assert html.encode().index(HTML_MARK.encode()) < 4096 - len(HTML_MARK)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    environment = _environment().overlay()
    environment.loader = jinja2.ChoiceLoader(
        [
            jinja2.DictLoader(
                {"x": '{% extends "pages/base.html.j2" %}{% block content %}{{ body }}{% endblock %}'}
            )
        ]
        + ([environment.loader] if environment.loader else [])
    )
    monkeypatch.setattr("zhuzi.pages.page._environment", lambda: environment)
    return render(
        "x",
        title=("A & B", "甲与乙"),
        command=["zhuzi", "corpus", "stats", "my corpus"],
        fingerprints={"tokenizer": "0123abcd"},
        packages=["jinja2", "not-installed-anywhere"],
        next_commands=[(("Go on", "继续"), "zhuzi <next>")],
        body=t("<b>{}</b> left", "剩 <b>{}</b>", "<5>"),
    )


def test_a_page_needs_nothing_beside_it(page: str) -> None:
    require_self_contained(page)
    assert "zhuzi corpus stats &#39;my corpus&#39;" in page
    assert "0123abcd" in page and "zhuzi &lt;next&gt;" in page
    assert "jinja2 3" in page and "not-installed" not in page
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", page)


def test_both_languages(page: str) -> None:
    assert '<span class="en" lang="en">A &amp; B</span><span class="zh" lang="zh-Hans">甲与乙</span>' in page
    assert "<title>A &amp; B · 甲与乙</title>" in page
    assert "<b>&lt;5&gt;</b> left" in page and "剩 <b>&lt;5&gt;</b>" in page
    assert t("{} of", "{}个", ("a", "甲")) == t("a of", "甲个")


def test_a_name_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        _environment().from_string("{{ nobody }}").render()


def placed(svg: str) -> list[tuple[float, float, float, float]]:
    """The boxes of a chart's figures, by the size of their digits."""
    found = re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)" class="value halo"[^>]*>([^<]+)<', svg)
    return [(float(x), float(y) - 9, float(x) + 6.2 * len(text), float(y) + 1) for x, y, text in found]


@pytest.mark.parametrize(
    "lines",
    [
        [(8.02, 6.1, 5.26, 3.18, 3.14), (2.12, 2.14, 2.15, 3.85, 3.51)],
        [(8.02, 8.03), (8.02, 8.01), (8.02, 8.02)],
        [(0.0, 0.0, 0.0), (0.001, 0.0, 0.1)],
        [(5.0,), (5.0,)],
    ],
)
def test_figures_of_a_chart_do_not_collide(lines: list[tuple[float, ...]]) -> None:
    drawn = line_chart(
        "Bits",
        [Line(str(n), list(enumerate(ys)), values=".2f") for n, ys in enumerate(lines)],
        x_names=[f"model {i}" for i in range(len(lines[0]))],
        y_label="bits per byte",
        level=(8, ("8: nothing learnt", "8：什么也没学到")),
        from_zero=True,
    )
    Balanced(drawn)
    boxes = placed(drawn)
    assert len(boxes) == sum(map(len, lines))
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 420 and top >= 0 and bottom <= 250
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_charts_of_little_or_odd_data() -> None:
    assert line_chart("t", [Line("a", [])]) == ""
    for points in ([(0, 1)], [(1, 3), (2, 3)], [(1, -1e-9), (1000, 1e9)]):
        drawn = line_chart("t", [Line("a", points)], log_x=points[0][0] > 0)
        assert "nan" not in drawn and "inf" not in drawn
    bars = bar_chart("t", [("<a>", 0), ("b", [1, 2])], series=["x", "y"])
    Balanced(bars)
    assert "&lt;a&gt;" in bars and "width:100.00%" in bars and "width:0.00%" in bars
    assert bar_chart("t", []).count("<tr>") == 0


def test_a_moving_average_keeps_the_start_and_does_not_end_in_noise() -> None:
    points = [(float(x), float(y)) for x, y in enumerate([9, 1, 5, 5, 5, 2])]
    smooth = moving_average(points, 3)
    assert smooth == [(0, 9), (1, 5), (2, 11 / 3), (3, 5), (4, 4), (5, 3.5)]


def test_tables_and_pieces() -> None:
    made = table(
        ["name", ("tokens", "数")], [["<x>", 12_345], [("b", "乙"), None], [Markup("<i>c</i>"), 0.5]]
    )
    Balanced(made)
    assert "&lt;x&gt;" in made and '<td class="n">12,345</td>' in made and "<i>c</i>" in made
    assert made.count('<th class="n">') == 1
    shown = tokens(["▁a", "<0xE5>", "人<", "\n"], ["old", "", "new", ""])
    assert 'class="token byte">E5<' in shown and 'class="token new">人&lt;<' in shown and "⏎" in shown


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "try:\n    import zhuzi.pages\nexcept ModuleNotFoundError as error:\n    print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("jinja2 ") and "pip install 'zhuzi[pages]'" in done.stdout
