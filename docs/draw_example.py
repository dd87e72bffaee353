"""Draws docs/example.svg, one sentence on its way to ids: python docs/draw_example.py (extra `demo`).

Everything in the picture is computed: codes from the characters, links and segments from the pieces of the
vocabulary, ids by the tokenizer.
"""

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

import zhuzi

TEXT = "我在南京市长江大桥 now"
APPENDED = ["南京", "京市", "市长", "南京市", "长江", "大桥", "长江大桥"]
COLUMN, LEFT = 58, 92
ROWS = {"text": 34, "codes": 78, "links": 118, "segments": 160, "ids": 218}

model = sentencepiece_model_pb2.ModelProto.FromString(
    (files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()
)
for text in APPENDED:
    model.pieces.add(piece=text, score=0)
tokenizer = zhuzi.Tokenizer.from_sentencepiece(model.SerializeToString())

# Pairs of characters that some piece holds side by side; True if all those pieces have the common score, 0.
links: dict[tuple[str, str], bool] = {}
for piece in tokenizer.pieces():
    for pair in pairwise(piece.text) if piece.kind == "NORMAL" else ():
        links[pair] = links.get(pair, True) and piece.score == 0


def row(name: str, columns: list[str]) -> str:
    """A line of text, one entry per column."""
    entries = (
        f'<text x="{LEFT + (i + 0.5) * COLUMN}" y="{ROWS[name]}" class="{name}">{entry}</text>'
        for i, entry in enumerate(columns)
    )
    return "\n".join(entries)


def box(name: str, start: int, length: int, lines: list[str]) -> str:
    """A box under the columns of its characters."""
    x, width, y = LEFT + start * COLUMN + 3, length * COLUMN - 6, ROWS[name]
    words = "".join(
        f'<text x="{x + width / 2}" y="{y + 15 + 16 * i}" class="{name}">{line}</text>'
        for i, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y - 4}" width="{width}" height="{10 + 16 * len(lines)}" rx="5"/>{words}'


def answered(segment: str) -> list[str]:
    """How the engine answers a segment."""
    if len(segment) == 1:
        return ["as is"]
    if all(links[pair] for pair in pairwise(segment)):
        return ["one segment, all links of score 0:", "a stack (P2)"]
    return ["several scores:", "cache, or merged by rank"]


characters = ["▁", *TEXT.replace(" ", "▁")]
parts = [
    row("text", characters),
    row("codes", [f"{0x20 if c == '▁' else ord(c):04X}" for c in characters]),
]
segments = [""]
for i, pair in enumerate(pairwise(characters)):
    segments[-1] += pair[0]
    x, y = LEFT + (i + 1) * COLUMN, ROWS["links"]
    if pair in links:
        kind = "one" if links[pair] else "several"
        parts.append(f'<path d="M{x - 18} {y} h36" class="{kind}"/>')
    else:
        parts.append(f'<path d="M{x} {y - 10} v20" class="cut"/>')
        segments.append("")
segments[-1] += characters[-1]

start = 0
for segment in segments:
    parts.append(box("segments", start, len(segment), answered(segment)))
    start += len(segment)
start = 0
for token in tokenizer.encode(TEXT):
    text = tokenizer.id_to_token(token)
    parts.append(box("ids", start, len(text), [text, str(token)]))
    start += len(text)
names = [
    f'<text x="8" y="{y + (12 if name in ("segments", "ids") else 4)}" class="name">{name}</text>'
    for name, y in ROWS.items()
]

style = """
text { font-family: system-ui, sans-serif; text-anchor: middle; fill: #333; font-size: 12px; }
rect { fill: #fbf6ec; stroke: #a8321e; } path { fill: none; stroke: #a8321e; stroke-width: 3; }
.several { stroke: #777; } .cut { stroke: #bbb; stroke-width: 1.5; stroke-dasharray: 3 3; }
.text { font-size: 20px; } .codes { font-family: ui-monospace, monospace; font-size: 12px; fill: #666; }
.ids { font-weight: bold; } .name { text-anchor: start; fill: #a8321e; font-weight: bold; }
"""
head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + len(characters) * COLUMN + 8} 262">'
svg = "\n".join([head, f"<style>{style}</style>", *parts, *names, "</svg>", ""])
Path(__file__).with_name("example.svg").write_text(svg, "utf-8")
