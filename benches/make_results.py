"""Makes benches/RESULTS.md and docs/speed.svg from benches/results.json: python benches/make_results.py.

The tables are those of records labelled `mixed`, `Han` or with a model's name: `bench_encode.py --label Han
--min-han 0.6 --record benches/results.json ...`.
"""
# ruff: noqa: E501  # the page's text holds placeholders

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from recording import markdown

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]

MIXED = "mixed"
MODELS = ["llama-32000", "chinese-llama-2-55296", "mistral-v1", "glm-cog-pretrain-chinese"]


def newest(records: list[Record], bench: str, table: str, label: str) -> Record | None:
    """The record that was appended last for a table and a text."""
    found = [r for r in records if (r["bench"], r["table"], r["label"]) == (bench, table, label)]
    return found[-1] if found else None


def figure(record: Record, row: str, column: str) -> float:
    """One figure of a record, by the first entry of its row and the start of its column's name."""
    at = next(i for i, name in enumerate(record["columns"]) if name.startswith(column))
    return next(r[at] for r in record["rows"] if r[0] == row)


def origin(record: Record, shown: Record) -> str:
    """Where a table comes from, in one line; the machine where it is not the one that the page names."""
    words = [f"`{record['command']}`", f"commit `{record['commit']}`", record["date"]]
    words.append(f"{record['rounds']} round{'s' * (record['rounds'] != 1)}")
    if "text_mb" in record:
        words.append(f"{record['text_mb']:,} MB of text")
    if record["load"] is not None:
        words.append(f"load {record['load']} at the start")
    if record["machine"] != shown["machine"]:
        words.append(f"on {record['machine']}")
    if "device" in record:
        words.append(record["device"])
    note = f". Note: {record['note']}" if "note" in record else ""
    return ", ".join(words) + note + ".\n"


def headline(records: list[Record]) -> dict[str, float]:
    """The figures that the README repeats."""
    encode = newest(records, "encode", "all", MIXED)
    corpus = newest(records, "corpus", "engines", MIXED)
    assert encode and corpus
    ours = figure(encode, "zhuzi", "1 thread")
    return {
        "encode MB/s": ours,
        "encode x sentencepiece": figure(encode, "zhuzi", "x sentencepiece"),
        "encode x gigatoken": round(ours / figure(encode, "gigatoken", "1 thread"), 1),
        "corpus MB/s": figure(corpus, "zhuzi", "MB/s"),
        "corpus x gigatoken": figure(corpus, "gigatoken", "zhuzi is faster by"),
        "corpus x megatron": figure(corpus, "megatron", "zhuzi is faster by"),
        "corpus x datasets": figure(corpus, "datasets", "zhuzi is faster by"),
        "corpus peak MB": figure(corpus, "zhuzi", "peak MB"),
    }


def models(records: list[Record], shown: Record) -> str:
    """One row per model."""
    rows, last = [], None
    for label in MODELS:
        if record := newest(records, "encode", "all", label):
            speeds = {row[0]: row[1] for row in record["rows"]}
            times = figure(record, "zhuzi", "x sentencepiece")
            rows.append((label, *(speeds.get(e) for e in ("sentencepiece", "gigatoken", "zhuzi")), times))
            last = record
    names = ["model", "sentencepiece, MB/s", "gigatoken", "zhuzi", "x sentencepiece"]
    return markdown(names, rows) + (f"\n{origin(last, shown)}" if last else "")


def training(records: list[Record], shown: Record) -> str:
    """The newest tables of `bench_training.py`, one per label; nothing if there are none."""
    labels = dict.fromkeys(r["label"] for r in records if r["bench"] == "training")
    found = [r for label in labels if (r := newest(records, "training", "training", label))]
    if not found:
        return ""
    tables = [f"{r['label']}:\n\n{markdown(r['columns'], r['rows'])}\n{origin(r, shown)}" for r in found]
    packages = ", ".join(f"{name} {number}" for name, number in found[-1]["versions"].items())
    about = f"""
## Training

Models with random weights and 49,953 rows, 32,000 of them old; embedding, head and LoRA of rank 8 train. `stock` is
peft (`modules_to_save`) with transformers' Trainer over bitsandbytes' 8-bit layers; ours are `BITS-full` (all rows of
embedding and head train) and `BITS-new` (`vocabulary: new-rows`). The last table is with {packages}.
"""
    return "\n".join([about, *tables])


def engines(records: list[Record], shown: Record) -> str:
    """Whether every engine gives the same ids, and transformers beside ours; nothing without the records."""
    parity = [newest(records, "parity", name, "all") for name in ("text", "special")]
    hf = newest(records, "hf", "hf", MIXED)
    if not all(parity) or hf is None:
        return ""
    text, special = (f"{markdown(r['columns'], r['rows'])}\n{origin(r, shown)}" for r in parity if r)
    return f"""
## The same ids everywhere

Documents to which an engine gives other ids than ours; special tokens in a text are text. For each way to make a
vocabulary of LLaMA's 32,000 pieces, with 17,953 new ones (docs/vocabulary.md).

{text}
With special tokens written into each document, and recognised; sentencepiece cannot.

{special}
## ZhuziTokenizer beside transformers

The same vocabulary (`ordered --repair`) and ids; MB/s.

{markdown(hf["columns"], hf["rows"])}
{origin(hf, shown)}"""


def initial(records: list[Record], shown: Record) -> str:
    """The newest table of `bench_init.py`; nothing if there is none."""
    labels = [r["label"] for r in records if r["bench"] == "init"]
    record = newest(records, "init", "init", labels[-1]) if labels else None
    if record is None:
        return ""
    return f"""
## New rows

Bits per byte of held-out text from each initialiser of `model extend`: before any training, after the embedding was
trained alone, and after LoRA, embedding and head were trained (`{record["label"]}`). Smaller is better. `zh +-` is the
largest deviation of a Chinese figure between seeds, where there were several.

{markdown(record["columns"], record["rows"])}
{origin(record, shown)}"""


def extending(records: list[Record], shown: Record) -> str:
    """The newest tables of `bench_extend.py`; nothing if there are none."""
    about = {
        "speed": "Time and peak memory beside sentencepiece's BPE trainer, same text and number of pieces:",
        "growth": "Larger texts, made of clauses in random order:",
        "quality": "What the pieces buy on sources that were held out:",
        "drift": "Beside the base, on the same text:",
    }
    parts = []
    for table, says in about.items():
        if record := newest(records, "extend", table, MIXED):
            title = f" {record['about']}." if "about" in record else ""
            parts.append(
                f"{says}{title}\n\n{markdown(record['columns'], record['rows'])}\n{origin(record, shown)}"
            )
    head = "## Extending a vocabulary\n\n`zhuzi vocab extend` on LLaMA's 32,000 pieces.\n"
    return "\n".join([head, *parts]) if parts else ""


def using(records: list[Record], shown: Record) -> str:
    """The newest tables of `bench_quantised.py`, one per label, and of `bench_serve.py`; nothing without them."""
    parts = []
    for label in dict.fromkeys(r["label"] for r in records if r["bench"] == "quantised"):
        record = newest(records, "quantised", "quantised", label)
        assert record
        parts.append(f"{label}:\n\n{markdown(record['columns'], record['rows'])}\n{origin(record, shown)}")
    if parts:
        parts.insert(0, "## In fewer bits\n\nA model as `zhuzi chat`, `serve` and `eval bits` load it.\n")
    for label in dict.fromkeys(r["label"] for r in records if r["bench"] == "serve"):
        record = newest(records, "serve", "memory", label)
        assert record
        counts = sorted(record["requests"].items(), key=lambda pair: -pair[1])
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in counts)
        about = f"""## A server's memory

`zhuzi serve` with {record["clients"]} clients that ask without a pause ({label}): {kinds}.
Growth in the last two thirds of the time (a fitted line): {record["growth_mb"]:+} MB. Every kind got the status it
should, and no answer went on when all had left.
"""
        parts.append(f"{about}\n{markdown(record['columns'], record['rows'])}\n{origin(record, shown)}")
    return "\n".join(["", *parts]) if parts else ""


def page(records: list[Record]) -> str:
    """RESULTS.md."""
    shown = newest(records, "encode", "all", MIXED) or records[-1]

    def table(bench: str, name: str, label: str = MIXED) -> str:
        record = newest(records, bench, name, label)
        assert record, (bench, name, label)
        return f"{markdown(record['columns'], record['rows'])}\n{origin(record, shown)}"

    packages = ", ".join(f"{name} {number}" for name, number in shown["versions"].items())
    best = headline(records)
    hostile = newest(records, "encode", "hostile", MIXED)
    assert hostile
    growth = max(row[4] for row in hostile["rows"])
    return f"""# Results

`make results` makes this page from [results.json](results.json), to which the benches append with `--record`.
What was tried, kept and dropped, and older figures, are in [LOG.md](LOG.md).

- **Encoding** mixed Chinese text, one thread: {best["encode MB/s"]} MB/s, {best["encode x sentencepiece"]} times
  sentencepiece, {best["encode x gigatoken"]} times gigatoken.
- **File to shards**, jsonl to fsynced Megatron shards, two threads: {best["corpus MB/s"]} MB/s of jsonl in
  {best["corpus peak MB"]} MB of memory; {best["corpus x gigatoken"]} times gigatoken (which writes nothing),
  {best["corpus x megatron"]} times a Megatron-style script, {best["corpus x datasets"]:.0f} times `datasets.map`.

![Speed beside peers](../docs/speed.svg)

## How it was measured

- {shown["machine"]}.
- {packages}.
- The text is mixed Chinese from 24 public sources: laws, poems, abstracts, reviews, and manuals half of which is
  English and code. The model is the published merge of 49,953 pieces unless another is named.
- Every measurement runs in a process of its own with cold caches. Engines take turns; the median of the rounds
  is given.
- Before an engine is timed, the system is made to have memory ready. A virtual machine may have returned freed
  memory to its host, and waiting for it would be measured instead of the engine.
- A `+` after a commit means that the tree had changes that were not committed.

## What it does not show

- **Other machines.** This one is virtual and shares its processor and memory, so only ratios within one run
  count. AVX-512 gives 3 to 13 % over AVX2.
- **Many cores.** Two were at hand.
- **Other interfaces.** Every engine runs through its Python interface with its usual result type: lists for
  sentencepiece, one buffer of ids for zhuzi. We wrote the Megatron-style and the `datasets` program.
- **A neutral choice.** We chose text, models and peers, and tuned the encoder on part of the text. Among the
  half-English sources, those it was not tuned on run at a median of 38 times sentencepiece's speed, the others at
  43 times ([LOG.md](LOG.md#by-source); measured in a warm process).
- **Other languages.** English runs at about a third of the speed of mixed Chinese text.

## Encoding

{table("encode", "all")}
Text with at least 60 % Han:

{table("encode", "all", "Han")}
### Other models

One thread.

{models(records, shown)}
### Two threads and two processes

Two threads encode the text once. Two processes of one thread encode it once each, and their rates are added.

{table("encode", "threads")}
Han:

{table("encode", "threads", "Han")}
### By document length

One thread. Short documents repeat, which favours all caches.

{table("encode", "length")}
### Hostile texts

Texts made to be slow, one thread, nanoseconds per byte. At 100 MB none costs more than {growth} times as much per
byte as at 1 MB, where the process is still cold.

{table("encode", "hostile")}
### Instructions

`make instructions` counts instructions per byte (callgrind, AVX2) and fails if a count grows by 3 %. The counts
are in [instructions.txt](instructions.txt).

## File to shards

`gigatoken` is its `encode_files`: the ids stay in memory, nothing is written, and on merged vocabularies they
differ from sentencepiece's. Slow peers get a part of the file.

{table("corpus", "engines")}
Where the time of zhuzi goes, by the clock, over all threads. Five threads share two cores, and a stage that waits
for a core counts that, too.

{table("corpus", "stages")}{training(records, shown)}{initial(records, shown)}{engines(records, shown)}
{extending(records, shown)}{using(records, shown)}"""


def bars(title: str, y: int, rows: list[tuple[str, float, str]]) -> tuple[list[str], int]:
    """A title and a bar for each row; returns where the next may start."""
    most = max(value for _, value, _ in rows)
    parts = [f'<text x="10" y="{y}" class="title">{title}</text>']
    for name, value, note in rows:
        y += 24
        kind = ' class="ours"' if name == "zhuzi" else ""
        width = round(440 * value / most, 1)
        parts.append(f'<text x="150" y="{y}" class="name">{name}</text>')
        parts.append(f'<rect x="158" y="{y - 13}" width="{width}" height="17"{kind}/>')
        parts.append(f'<text x="{164 + width}" y="{y}">{value:,.0f} MB/s{note}</text>')
    return parts, y + 40


def picture(records: list[Record]) -> str:
    """docs/speed.svg: the two headline figures beside the peers."""
    encode = newest(records, "encode", "all", MIXED)
    corpus = newest(records, "corpus", "engines", MIXED)
    assert encode and corpus

    def exact(share: str | None) -> str:
        return ", exact" if share == "0 %" else f", other ids in {share} of documents" if share else ""

    names = {"megatron": "Megatron-style", "datasets": "datasets.map"}
    notes = {"gigatoken": ", writes nothing"}
    first, y = bars(
        "Encoding mixed Chinese text, one thread",
        24,
        [(row[0], row[1], exact(row[4])) for row in encode["rows"]],
    )
    second, y = bars(
        f"From jsonl to token shards, {corpus['threads']} threads",
        y,
        [(names.get(row[0], row[0]), row[3], notes.get(row[0], "")) for row in reversed(corpus["rows"])],
    )
    style = """
text { font-family: system-ui, sans-serif; font-size: 13px; fill: #333; }
.title { font-weight: bold; font-size: 14px; } .name { text-anchor: end; }
rect { fill: #d8cfc0; } .ours { fill: #a8321e; }
"""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {y - 26}">'
    return "\n".join([head, f"<style>{style}</style>", *first, *second, "</svg>", ""])


def main() -> None:
    records = json.loads((ROOT / "benches" / "results.json").read_text("utf-8"))
    for name, text in (("benches/RESULTS.md", page(records)), ("docs/speed.svg", picture(records))):
        (ROOT / name).write_text(text, "utf-8")
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
