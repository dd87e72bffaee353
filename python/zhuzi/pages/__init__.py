"""Reports as self-contained HTML pages: `corpus stats --html`, the demo's report, audits, comparisons.

A page is one file that loads nothing: style, charts and one line of script are inside. It can be read on a
phone, in dark mode, and in English or Chinese, with a switch between them. It ends with how it was made
(date, versions, command, fingerprints) and what to do next.

To add one, write a template beside the module whose figures it shows:

    {% extends "pages/base.html.j2" %}
    {% block content %}
    <h2>{{ t("Dead pieces", "死词") }}</h2>
    <p>{{ t("{:,} pieces can never be produced.", "有 {:,} 个词片永远不会产生。", dead) }}</p>
    {{ bar_chart(("Tokens by source", "各来源的 token 数"), rows) }}
    {% endblock %}

and render it (templates are named from the package's folder):

    html = render(
        "vocab/audit.html.j2",
        title=("Audit of a vocabulary", "词表检查"),
        command=["zhuzi", "vocab", "audit", str(model), "--html", str(page)],
        fingerprints={"tokenizer": tokenizer.fingerprint},
        next_commands=[(("Extend the model", "扩展模型"), "zhuzi model extend ...")],
        dead=345, rows=[("zh.jsonl", 1200), ("en.jsonl", 80)],
    )

`Text` is a string, the same in both languages, or a pair (English, Chinese). Templates have, besides jinja2's
own functions:

    t(english, chinese, *values)              a text in both languages; may hold HTML, the values are escaped
    table(head, rows)                         numbers to the right; a cell may also be a `Text` or Markup
    figures([(value, label), ...])            the main figures, large
    verdict(good, text)                       a box at the top: green or red
    tokens(pieces, kinds)                     a text's pieces in colour; kinds: "", "new", "old", "bad"
    folded(summary, content)                  shown when it is unfolded
    line_chart(title, lines, ...)             see `zhuzi.pages.charts`
    bar_chart(title, rows, ...)

They are functions of `zhuzi.pages.text`, `.parts` and `.charts`, for use in Python too. Write the result with
`zhuzi.record.output.new_file(path, kind="page", ...)`: pages carry the mark of Zhuzi's files.

It needs the extra `pages` (jinja2): import it in the function that makes a page, and early, so that a missing
extra is noticed before the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

try:
    import jinja2 as _jinja2  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "HTML pages need jinja2; install it with: pip install 'zhuzi[pages]'", name="jinja2"
    ) from None

if TYPE_CHECKING:
    from zhuzi.pages.charts import Line, bar_chart, line_chart, moving_average
    from zhuzi.pages.page import render
    from zhuzi.pages.parts import figures, folded, table, tokens, verdict
    from zhuzi.pages.text import Text, t

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Line": "zhuzi.pages.charts",
        "Text": "zhuzi.pages.text",
        "bar_chart": "zhuzi.pages.charts",
        "figures": "zhuzi.pages.parts",
        "folded": "zhuzi.pages.parts",
        "line_chart": "zhuzi.pages.charts",
        "moving_average": "zhuzi.pages.charts",
        "render": "zhuzi.pages.page",
        "t": "zhuzi.pages.text",
        "table": "zhuzi.pages.parts",
        "tokens": "zhuzi.pages.parts",
        "verdict": "zhuzi.pages.parts",
    },
)

__all__ = [
    "Line",
    "Text",
    "bar_chart",
    "figures",
    "folded",
    "line_chart",
    "moving_average",
    "render",
    "t",
    "table",
    "tokens",
    "verdict",
]
