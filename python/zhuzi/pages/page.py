"""`render`: a template and its figures become a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from zhuzi._core import __version__
from zhuzi.pages import charts, parts
from zhuzi.pages.text import Text, plain, shown, t
from zhuzi.record.marks import HTML_MARK


def render(
    template: str,
    *,
    title: Text,
    lead: Text = "",
    command: str | Sequence[str] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    packages: Sequence[str] = (),
    next_commands: Sequence[tuple[Text, str]] = (),
    **values: Any,
) -> str:
    """The page of a template, which extends `pages/base.html.j2`.

    Args:
        template: its name from the package's folder, such as "corpus/stats.html.j2".
        title: of the page, and its heading.
        lead: one or two sentences below the heading.
        command: what makes this page again; words are quoted as a shell needs.
        fingerprints: what the page is about, by name, such as {"tokenizer": tokenizer.fingerprint}.
        packages: other packages whose versions matter; those that are not installed are left out.
        next_commands: what to do next, each with the command that does it.
        values: for the template. A name that the template uses and nobody gave is an error.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            mark=Markup(HTML_MARK),
            title=title,
            lead=lead,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            versions={"zhuzi": __version__, **_versions(packages)},
            command=command if command is None or isinstance(command, str) else shlex.join(command),
            fingerprints=fingerprints or {},
            next_commands=next_commands,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("zhuzi").joinpath(name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"shown": shown, "plain": plain}
    environment.globals |= {
        "t": t,
        "Line": charts.Line,
        "bar_chart": charts.bar_chart,
        "line_chart": charts.line_chart,
        "moving_average": charts.moving_average,
        **{name: getattr(parts, name) for name in ("figures", "folded", "table", "tokens", "verdict")},
    }
    return environment


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
