"""What a page says, in two languages. The page shows one of them; a switch at its top chooses."""

from __future__ import annotations

from markupsafe import Markup, escape

Text = str | tuple[str, str]
"""A string, the same in both languages, or a pair (English, Chinese)."""


def t(english: str, chinese: str, *values: object) -> Markup:
    """A text in both languages.

    The two are HTML with places for `values` as in `str.format`; the values are escaped, unless they are
    Markup. A value may be a pair (English, Chinese).
    """
    picked = [[value[side] if isinstance(value, tuple) else value for value in values] for side in (0, 1)]
    return in_both(Markup(english).format(*picked[0]), Markup(chinese).format(*picked[1]))


def shown(text: Text, tag: str = "span") -> Markup:
    """The text as HTML: escaped, and in both languages if it is a pair. `tag`: tspan in an SVG."""
    return in_both(escape(text[0]), escape(text[1]), tag) if isinstance(text, tuple) else escape(text)


def in_both(english: Markup, chinese: Markup, tag: str = "span") -> Markup:
    """HTML of which the page shows one."""
    return Markup('<{0} class="en" lang="en">{1}</{0}><{0} class="zh" lang="zh-Hans">{2}</{0}>').format(
        Markup(tag), english, chinese
    )


def plain(text: Text) -> str:
    """Both languages in one line, for a title or a label that has no elements."""
    return text if isinstance(text, str) else " · ".join(text)
