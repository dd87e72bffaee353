"""Draws docs/road.svg and docs/zh/road.svg, the picture of the road: python docs/draw_road.py."""

from pathlib import Path

STEPS = [
    ("vocab train", "Chinese text", "donor.model", "20,000 pieces"),
    ("vocab merge", "base.model + donor.model", "tokenizer/", "49,954 ids"),
    ("corpus encode", "text + tokenizer/", "corpus/", "Megatron shards"),
    ("model extend", "LLaMA + tokenizer/", "llama-zh/", "old rows untouched"),
    ("pretrain", "llama-zh/ + corpus/", "stage 1: model", "embedding alone"),
    ("pretrain", "stage 1 + corpus/", "stage 2: adapter", "LoRA + both, 8-bit base"),
    ("model merge", "stage 1 + adapter", "chinese-llama/", "16-bit safetensors"),
    ("sft", "chinese-llama/ + records", "adapter", "LoRA on all seven"),
    ("model merge", "chinese-llama/ + adapter", "chinese-alpaca/", "16-bit safetensors"),
    ("chat", "chinese-alpaca/", "你好！", "streams"),
]
CHINESE = {
    "Chinese text": "中文文本",
    "20,000 pieces": "20,000 个词片",
    "49,954 ids": "49,954 个 id",
    "text + tokenizer/": "文本 + tokenizer/",
    "Megatron shards": "Megatron 分片",
    "old rows untouched": "旧的行不变",
    "stage 1: model": "第一阶段：模型",
    "embedding alone": "只训练词嵌入",
    "stage 1 + corpus/": "第一阶段 + corpus/",
    "stage 2: adapter": "第二阶段：适配器",
    "LoRA + both, 8-bit base": "LoRA + 两个矩阵，8 bit 基座",
    "stage 1 + adapter": "第一阶段 + 适配器",
    "16-bit safetensors": "16 bit safetensors",
    "chinese-llama/ + records": "chinese-llama/ + 指令数据",
    "adapter": "适配器",
    "LoRA on all seven": "七个矩阵上的 LoRA",
    "chinese-llama/ + adapter": "chinese-llama/ + 适配器",
    "streams": "边写边显示",
}
BOX, GAP, ROW = 172, 14, 128


def box(number: int, command: str, takes: str, gives: str, note: str) -> str:
    x, y = 10 + (number % 5) * (BOX + GAP), 12 + (number // 5) * ROW
    middle = x + BOX / 2
    arrow = (
        "" if number % 5 == 4 else f'<path d="M{x + BOX + 2} {y + 50} l9 0 m-4 -4 l4 4 l-4 4" class="arrow"/>'
    )
    return (
        f'<rect x="{x}" y="{y}" width="{BOX}" height="100" rx="6"/>'
        f'<text x="{middle}" y="{y + 24}" class="command">{command}</text>'
        f'<text x="{middle}" y="{y + 46}" class="takes">{takes}</text>'
        f'<text x="{middle}" y="{y + 68}" class="gives">→ {gives}</text>'
        f'<text x="{middle}" y="{y + 88}" class="takes">{note}</text>{arrow}'
    )


style = """
text { font-family: system-ui, sans-serif; text-anchor: middle; fill: #333; font-size: 11px; }
rect { fill: #fbf6ec; stroke: #a8321e; } .arrow { stroke: #a8321e; fill: none; stroke-width: 1.5; }
.command { font-family: ui-monospace, monospace; font-weight: bold; font-size: 13px; fill: #a8321e; }
.gives { font-weight: bold; } .takes { fill: #666; }
"""
width, height = 20 + 5 * BOX + 4 * GAP, 12 + 2 * ROW - 8
head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
for name, words in (("road.svg", {}), ("zh/road.svg", CHINESE)):
    boxes = "\n".join(
        box(i, step[0], *(words.get(word, word) for word in step[1:])) for i, step in enumerate(STEPS)
    )
    drawing = Path(__file__).parent / name
    drawing.parent.mkdir(exist_ok=True)
    drawing.write_text(f"{head}\n<style>{style}</style>\n{boxes}\n</svg>\n", "utf-8")
