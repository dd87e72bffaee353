"""The figures of run.py as a page, a table and a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from zhuzi.pages import Line, Text, line_chart, render

NAMES: dict[str, Text] = {
    "plain": ("the base's pieces", "原词表"),
    "extended-equal-bytes": ("extended, the same text", "扩展词表，相同文本"),
    "extended-equal-compute": ("extended, the same compute", "扩展词表，相同计算量"),
}
TEXTS: dict[str, Text] = {
    "same-sources": ("Chinese, the same sources", "中文，相同来源"),
    "other-sources": ("Chinese, other sources", "中文，其他来源"),
    "english": ("English", "英文"),
}
_COLORS = {name: i + 1 for i, name in enumerate(NAMES)}
_SHOWN_BITS = 6.0  # curves begin below: before training a model may need 30 bits for a byte it never saw


def write(out: Path, facts: dict[str, Any]) -> Path:
    """Write index.html, tiny-zh.md and bits.svg into the run's folder; returns the page."""
    (out / "tiny-zh.md").write_text(markdown(facts), "utf-8")
    (out / "bits.svg").write_text(picture(facts), "utf-8")
    page = out / "index.html"
    page.write_text(
        render(
            "recipes/tiny-zh/page.html.j2",
            title=("What new pieces are worth to a tiny LLaMA", "扩展词表对一个很小的 LLaMA 值多少"),
            command=facts["command"],
            packages=["torch", "transformers", "peft"],
            facts=facts,
            verdicts=[verdict(facts, arm) for arm in list(NAMES)[1:] if arm in arms(facts)],
            why=why(facts),
            bits_head=[("model", "模型"), *(TEXTS[text] for text in texts(facts))],
            bits_rows=[[name, *bits] for name, bits, _ in table(facts)],
            work_head=[("model", "模型"), *WORK],
            work_rows=[[name, *work] for name, _, work in table(facts) if work],
            sizes=facts["sizes"],
            charts=charts(facts),
        ),
        "utf-8",
    )
    return page


# --- figures -----------------------------------------------------------------------------------------------


def arms(facts: dict[str, Any]) -> list[str]:
    """The arms that at least one seed has finished, in their order."""
    return [name for name in NAMES if any(run["arm"] == name for run in facts["runs"])]


def texts(facts: dict[str, Any]) -> list[str]:
    """The held-out texts that were measured."""
    return [name for name in TEXTS if name in facts["base"]]


def runs_of(facts: dict[str, Any], arm: str) -> list[dict[str, Any]]:
    """One for each seed that has finished it."""
    return [run for run in facts["runs"] if run["arm"] == arm]


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation; of one value only itself."""
    found = format(mean(values), form)
    return f"{found} ± {format(stdev(values), form.lstrip('+'))}" if len(values) > 1 else found


def differences(facts: dict[str, Any], arm: str, text: str) -> list[float]:
    """Bits per byte of an arm minus those of the plain one with the same seed."""
    plain = {run["seed"]: run["bits"][text] for run in runs_of(facts, "plain")}
    return [run["bits"][text] - plain[run["seed"]] for run in runs_of(facts, arm) if run["seed"] in plain]


WORK: list[Text] = [
    ("text seen, MB", "见过的文本，MB"),
    ("tokens, M", "token，百万"),
    ("operations, 10^12", "运算，10^12"),
    ("seconds", "秒"),
]


def table(facts: dict[str, Any]) -> list[tuple[Text, list[str], list[str]]]:
    """A line for the base and for each arm: its name, bits per byte, and what the training took."""
    lines: list[tuple[Text, list[str], list[str]]] = [
        (("before training", "训练前"), [f"{facts['base'][text]:.3f}" for text in texts(facts)], [])
    ]
    for arm in arms(facts):
        runs = runs_of(facts, arm)
        bits = [spread([run["bits"][text] for run in runs]) for text in texts(facts)]
        scales = (("bytes_seen", 1e6), ("tokens", 1e6), ("operations", 1e12))
        work = [f"{mean(run[key] for run in runs) / scale:.2f}" for key, scale in scales]
        lines.append((NAMES[arm], bits, [*work, f"{mean(run['seconds'] for run in runs):.0f}"]))
    return lines


def why(facts: dict[str, Any]) -> tuple[str, str]:
    """What the pieces save, and what they cost: where the second factor is larger, they cannot pay."""
    old = facts["sizes"][0]
    new = next(it for it in facts["sizes"] if it["new_pieces"] == facts["new_pieces"])
    bytes_, cost = (new[key] / old[key] for key in ("bytes_per_token", "operations_per_token"))
    return (
        f"With the new pieces a token holds {bytes_:.2f} times the bytes and costs {cost:.2f} times the "
        f"operations: a byte costs {cost / bytes_:.2f} times what it did.",
        f"有了新词片，一个 token 的字节数是原来的 {bytes_:.2f} 倍，运算数是 {cost:.2f} 倍："
        f"每字节的运算是原来的 {cost / bytes_:.2f} 倍。",
    )


def verdict(facts: dict[str, Any], arm: str) -> tuple[bool, Text]:
    """Whether an arm beats the plain one on all Chinese texts with every seed, and by how much."""
    found = {text: differences(facts, arm, text) for text in texts(facts) if text != "english"}
    every = [value for values in found.values() for value in values]
    wins, loses = max(every) < 0, min(every) > 0
    english, chinese = (
        "; ".join(f"{TEXTS[text][side]} {spread(values, '+.3f')}" for text, values in found.items())
        for side in (0, 1)
    )
    how = ("wins", "更好") if wins else ("loses", "更差") if loses else ("neither wins nor loses", "互有胜负")
    seeds = len(next(iter(found.values())))
    return wins, (
        f"{NAMES[arm][0]}: {how[0]} ({seeds} seed{'s' if seeds > 1 else ''}). "
        f"Bits per byte against the base's pieces: {english}.",
        f"{NAMES[arm][1]}：{how[1]}（{seeds} 个种子）。与原词表相比的每字节比特数：{chinese}。",
    )


# --- table and picture -------------------------------------------------------------------------------------


def markdown(facts: dict[str, Any]) -> str:
    """The verdicts and both tables, in English."""
    lines = [f"- {verdict(facts, arm)[1][0]}" for arm in arms(facts)[1:]]
    lines.append(f"- {why(facts)[0]}")
    for part, heads in ((1, [TEXTS[text] for text in texts(facts)]), (2, WORK)):
        lines += ["", row(["", *(name[0] for name in heads)]), row(["---"] * (len(heads) + 1))]
        lines += [row([line[0][0], *line[part]]) for line in table(facts) if line[part]]
    lines += ["", row(["new pieces", "bytes per token", "operations per token, 10^6", "per byte, 10^6"])]
    lines.append(row(["---"] * 4))
    for it in facts["sizes"]:
        chosen = " (taken)" if it["new_pieces"] == facts["new_pieces"] else ""
        lines.append(
            row(
                [
                    f"{it['new_pieces']:,}{chosen}",
                    f"{it['bytes_per_token']:.2f}",
                    f"{it['operations_per_token'] / 1e6:.2f}",
                    f"{it['operations_per_byte'] / 1e6:.2f}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def row(cells: Sequence[object]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(map(str, cells)) + " |"


def charts(facts: dict[str, Any]) -> list[Any]:
    """Bits per byte of Chinese while the models train: by text seen, and by operations."""
    text = next(name for name in ("other-sources", "same-sources") if name in facts["base"])
    y_label: Text = (f"{TEXTS[text][0]}: bits per byte", f"{TEXTS[text][1]}：比特/字节")
    return [
        line_chart(title, curves(facts, text, work), x_label=x_label, y_label=y_label, height=260)
        for title, x_label, work in (
            (("By text seen", "按见过的文本"), ("MB", "MB"), "bytes_seen"),
            (("By compute", "按计算量"), ("10^12 operations", "10^12 次运算"), "operations"),
        )
    ]


def curves(facts: dict[str, Any], text: str, work: str) -> list[Line]:
    """A line for each arm and seed; those of an arm have one colour, and the first of them the name."""
    scale = {"bytes_seen": 1e6, "operations": 1e12}[work]
    lines = []
    for arm in arms(facts):
        for i, run in enumerate(runs_of(facts, arm)):
            points = [
                (run[work] / scale * entry["step"] / run["steps"], bits)
                for entry in run["curve"]
                if (bits := entry["bits_per_byte"][f"{text}.jsonl"]) < _SHOWN_BITS
            ]
            if points:
                lines.append(Line(NAMES[arm], points, color=_COLORS[arm], faint=i > 0))
    return lines


_STYLE = """
text { font: 11.5px system-ui, sans-serif; fill: #333; } .label { fill: #666; font-size: 11px; }
.grid { stroke: #e3dccf; fill: none; } .line { fill: none; stroke-width: 2; } .line.faint { opacity: .5; }
.title { font-weight: bold; font-size: 13px; } .zh { display: none; }
"""
_COLOR_OF = {"var(--c1)": "#b3341c", "var(--c2)": "#24619c", "var(--c3)": "#2f7d4f"}  # outside of the page


def picture(facts: dict[str, Any]) -> str:
    """Both charts side by side, in English, as one SVG."""
    panels = []
    for i, (chart, title) in enumerate(zip(charts(facts), ("By text seen", "By compute"), strict=True)):
        found = re.search(r'<svg viewBox="([^"]*)"[^>]*>(.*)</svg>', str(chart), re.S)
        if found:
            panels.append(
                f'<text x="{440 * i + 10}" y="40" class="title">{title}</text>'
                f'<svg x="{440 * i}" y="50" width="420" height="260" viewBox="{found[1]}">{found[2]}</svg>'
            )
    legend = "".join(
        f'<rect x="{10 + 220 * i}" y="8" width="10" height="10" fill="var(--c{_COLORS[arm]})"/>'
        f'<text x="{26 + 220 * i}" y="17">{NAMES[arm][0]}</text>'
        for i, arm in enumerate(arms(facts))
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 320">'
    drawn = "\n".join([head, f"<style>{_STYLE}</style>", legend, *panels, "</svg>", ""])
    for name, color in _COLOR_OF.items():
        drawn = drawn.replace(name, color)
    return drawn
