"""`report.html`: one file that shows what each step of the demo did."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from zhuzi.demo.sample import BUILT_IN
from zhuzi.pages import Line, Text, moving_average, render, t

STAGES: dict[str, Text] = {
    "stage1": ("Pre-training, stage 1", "预训练第一阶段"),
    "stage2": ("Pre-training, stage 2", "预训练第二阶段"),
    "sft": ("Instruction tuning", "指令微调"),
}
_TRAINED: dict[str, Text] = {
    "stage1": ("embedding", "词向量"),
    "stage2": ("LoRA on q, k, v, o; embedding; head", "q、k、v、o 上的 LoRA，词向量，输出层"),
    "sft": ("LoRA on all seven projections; embedding; head", "全部七个投影上的 LoRA，词向量，输出层"),
}
_MODELS = {
    "base model": "基础模型",
    "extended": "扩展词表后",
    "stage 1": "第一阶段后",
    "stage 2, merged": "第二阶段 合并后",
    "tuned, merged": "指令微调 合并后",
}
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "sentencepiece")

#: Steps whose losses a smooth line averages.
_SMOOTH = 11


def write_report(facts: dict[str, Any], path: Path) -> Path:
    """Write the report of a demo's figures, with its charts inside."""
    out = path.parent
    vocabulary = facts["vocabulary"]
    html = render(
        "demo/report.html.j2",
        title=("An English LLaMA learns Chinese", "让英文 LLaMA 学会中文"),
        command=facts["command"],
        fingerprints={"tokenizer": vocabulary["fingerprint"]},
        packages=_PACKAGES,
        next_commands=_next(out),
        facts=facts,
        road=_road(facts),
        stages=STAGES,
        trained=_TRAINED,
        losses=_losses(facts),
        models=[named(entry["name"]) for entry in facts["measured"]],
        bits=_bits(facts["measured"]),
        named=named,
        sourced=lambda name: (name, "自带样例") if name == BUILT_IN else name,
        compact=compact,
        sample=_continued,
        asked=[entry for entry in facts["measured"] if entry["answers"]],
    )
    path.write_text(html, "utf-8")
    return path


def named(model: str) -> Text:
    """The name of a model of the demo in both languages."""
    return model, _MODELS[model]


def compact(text: str) -> Markup:
    """What a model wrote, on few lines: a run of newlines as one sign, a repeated character counted."""
    if not text.strip():
        nothing = (
            t("(ended at once)", "（立即结束）") if not text else t("(only white space)", "（只有空白）")
        )
        return Markup('<span class="note">{}</span>').format(nothing)
    text = re.sub(r"[ \t]*\n\s*", "⏎ ", text.strip("\n"))
    found = Markup()
    for run in re.finditer(r"(\S)\1{5,}|.", text):
        one, run_of = run[0][0], len(run[0])
        found += (
            Markup('{0}{0}{0}… <span class="note">×{1}</span> ').format(one, run_of) if run_of > 1 else one
        )
    return found


def _continued(start: str, text: str) -> Markup:
    begins = "⏎ " if text.startswith("\n") and text.strip() else ""
    return Markup('<div class="sample"><span class="start">{}</span>{}{}</div>').format(
        start, begins, compact(text)
    )


def _road(facts: dict[str, Any]) -> list[tuple[Text, str, Markup, float]]:
    """The steps as a picture: what, command, outcome, seconds."""
    v, c, seconds = facts["vocabulary"], facts["corpus"], facts["steps"]
    bits = {entry["name"]: entry["bits_per_byte"] for entry in facts["measured"]}

    def chinese(model: str) -> Markup:
        return t("Chinese: {:.2f} bits per byte", "中文：{:.2f} 比特/字节", bits[model]["zh"])

    return [
        (
            ("Extend the vocabulary", "扩展词表"),
            "zhuzi vocab extend",
            t("{:,} new pieces", "{:,} 个新词片", v["appended"]),
            seconds["vocabulary"],
        ),
        (
            ("Encode the corpus", "编码语料"),
            "zhuzi corpus encode",
            t("{:,} tokens", "{:,} 个 token", c["tokens"]),
            seconds["corpus"],
        ),
        (
            ("A small English LLaMA", "一个小的英文 LLaMA"),
            t("of the demo alone", "仅演示用"),
            t("English: {:.2f} bits per byte", "英文：{:.2f} 比特/字节", bits["base model"]["en"]),
            seconds["base model"],
        ),
        (("Extend the model", "扩展模型"), "zhuzi model extend", chinese("extended"), seconds["extended"]),
        (
            ("Pre-train, stage 1", "预训练第一阶段"),
            "zhuzi pretrain",
            chinese("stage 1"),
            seconds["stage 1"],
        ),
        (
            ("Pre-train, stage 2", "预训练第二阶段"),
            "zhuzi pretrain, model merge",
            chinese("stage 2, merged"),
            seconds["stage 2"] + seconds["stage 2 merged"],
        ),
        (
            ("Tune on instructions", "指令微调"),
            "zhuzi sft, model merge",
            t(
                "answers: {:.2f} → {:.2f} nats per token",
                "回答：{:.2f} → {:.2f} 奈特/token",
                facts["instructions"]["loss_before"],
                facts["instructions"]["loss_after"],
            ),
            seconds["tuning"] + seconds["tuning merged"],
        ),
        (("Talk to it", "对话"), "zhuzi chat", t("see the answers below", "见下面的回答"), 0.0),
    ]


def _losses(facts: dict[str, Any]) -> list[tuple[Text, list[Line]]]:
    curves: list[tuple[Text, Any]] = [(("Base model (English)", "基础模型（英文）"), facts["base"]["losses"])]
    curves += [(title, facts["stages"][name]["losses"]) for name, title in STAGES.items()]
    return [
        (
            title,
            [
                Line(("each step", "每步"), losses, faint=True, color=1),
                Line(("mean of 11 steps", "11 步平均"), moving_average(losses, _SMOOTH), color=1),
            ],
        )
        for title, losses in curves
    ]


def _bits(measured: list[dict[str, Any]]) -> list[Line]:
    names: list[tuple[str, Text]] = [("zh", ("Chinese", "中文")), ("en", ("English", "英文"))]
    return [
        Line(
            name,
            [(i, entry["bits_per_byte"][language]) for i, entry in enumerate(measured)],
            values=".2f",
        )
        for language, name in names
    ]


def _next(out: Path) -> list[tuple[Text, str]]:
    corpus, tokenizer, base = (str(out / name) for name in ("corpus", "tokenizer", "base-tokenizer"))
    sampled = ["--temperature", "1", "--top-p", "0.8", "--top-k", "0"]  # as the report's answers
    stats = ["zhuzi", "corpus", "stats", corpus, "--tokenizer", tokenizer, "--base", base]
    return [
        (
            ("Talk to the tuned model", "与微调后的模型对话"),
            shlex.join(["zhuzi", "chat", "--model", str(out / "chinese-alpaca"), *sampled]),
        ),
        (
            ("See what the corpus consists of", "看看语料的构成"),
            shlex.join([*stats, "--html", "stats.html"]),
        ),
        (
            ("The same with your own files", "换成自己的文件"),
            "zhuzi demo --out mine --corpus my.jsonl --instructions my.json "
            "--base-tokenizer llama/tokenizer.model",
        ),
    ]
