"""`report.html`: one file that shows what each step of the demo did."""

from __future__ import annotations

import io
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

STAGES = {
    "stage1": "Pre-training, stage 1",
    "stage2": "Pre-training, stage 2",
    "sft": "Instruction tuning",
}
_TRAINED = {
    "stage1": "embedding",
    "stage2": "LoRA on q, k, v, o; embedding; head",
    "sft": "LoRA on all seven projections; embedding; head",
}
_PACKAGES = ("zhuzi", "torch", "transformers", "peft", "bitsandbytes", "sentencepiece")


def write_report(facts: dict[str, Any], path: Path) -> Path:
    """Write the report of a demo's figures, with its pictures inside."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files(__package__) / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    curves = {"base": ("Base model (English)", facts["base"]["losses"])}
    curves |= {name: (title, facts["stages"][name]["losses"]) for name, title in STAGES.items()}
    html = environment.get_template("report.html.j2").render(
        facts=facts,
        stages=STAGES,
        trained=_TRAINED,
        loss_pictures=[_svg(_loss_curve(title, losses)) for title, losses in curves.values()],
        bits_picture=_svg(_bits_chart(facts["measured"])),
        versions={name: version(name) for name in _PACKAGES},
    )
    path.write_text(html, "utf-8")
    return path


def _loss_curve(title: str, losses: list[tuple[int, float]]) -> Figure:
    figure = Figure(figsize=(3.6, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.plot([step for step, _ in losses], [loss for _, loss in losses], color="#a8321e", linewidth=1.2)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("loss (nats per token)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    return figure


def _bits_chart(measured: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(7.4, 2.6), layout="constrained")
    axes = figure.subplots()
    names = [entry["name"] for entry in measured]
    for language, label, color in (("zh", "Chinese", "#a8321e"), ("en", "English", "#2b5c8a")):
        values = [entry["bits_per_byte"][language] for entry in measured]
        axes.plot(names, values, marker="o", color=color, label=label)
        for i, value in enumerate(values):
            axes.annotate(
                f"{value:.2f}", (i, value), (0, 5), textcoords="offset points", ha="center", fontsize=7
            )
    axes.set_ylabel("bits per byte, held out", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.2)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def _svg(figure: Figure) -> str:
    """The figure as an SVG element. Text stays text, and ids are the same in every run."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zhuzi"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
