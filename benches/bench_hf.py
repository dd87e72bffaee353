"""`zhuzi.hf.ZhuziTokenizer` beside transformers' own tokenizer: the call, and `datasets.map(batched=True)`.

    python benches/bench_hf.py --tokenizer FOLDER TEXT...

FOLDER is a vocabulary without ties (`vocab extend`, `vocab merge --policy ordered`): `vocab export` writes it
for transformers' `tokenizers` backend, and both must give the same ids for every document, which is checked.
TEXT is anything that `zhuzi corpus encode` reads; of it every Nth document is taken, `--most-bytes` in all.
The two take turns, the median of the rounds counts. `map` also makes Arrow of the ids: of lists, and, in the
last row, of the arrays that `zhuzi.Tokenizer.encode_batch` gives. `--record FILE` appends the table to a file
of records such as benches/results.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from recording import Recorder, Row
from transformers import AutoTokenizer

from zhuzi.corpus.read import read_texts
from zhuzi.hf import ZhuziTokenizer
from zhuzi.vocab import export_vocab

PACKAGES = ("zhuzi", "tokenizers", "transformers", "datasets")


def sample(texts: list[Path], most: int) -> list[str]:
    """Every Nth document, so that they have about `most` bytes."""
    found = list(read_texts(texts))
    step = max(sum(len(text.encode()) for text in found) // most, 1)
    return found[::step]


def call(tokenizer: Any, rows: Any, batch: int) -> None:
    """The tokenizer alone, on lists of texts."""
    for at in range(0, len(rows), batch):
        tokenizer(rows[at : at + batch]["text"])


def through_map(tokenizer: Any, rows: Any, batch: int) -> None:
    """What users write before training."""
    rows.map(
        lambda part: tokenizer(part["text"]),
        batched=True,
        batch_size=batch,
        remove_columns=["text"],
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def arrays_through_map(tokenizer: Any, rows: Any, batch: int) -> None:
    """Where the time to make lists, and Arrow of lists, counts; without BOS."""
    rows.map(
        lambda part: {"input_ids": list(tokenizer.tokenizer.encode_batch(part["text"]))},
        batched=True,
        batch_size=batch,
        remove_columns=["text"],
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def main() -> None:
    """Check, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--most-bytes", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--label", default="mixed")
    arguments = parser.parse_args()
    recorder = Recorder("hf", arguments.label, arguments.record, PACKAGES)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        exported = export_vocab(arguments.tokenizer, Path(folder) / "hf", split_special_tokens=True)
        assert exported.exact, exported.reason
        loaded = {
            "transformers": AutoTokenizer.from_pretrained(exported.path),
            "ZhuziTokenizer": ZhuziTokenizer.from_pretrained(arguments.tokenizer),
        }
    texts = sample(arguments.texts, arguments.most_bytes)
    size = sum(len(text.encode()) for text in texts)
    rows = datasets.Dataset.from_dict({"text": texts})
    ids = [tokenizer(texts)["input_ids"] for tokenizer in loaded.values()]
    assert ids[0] == ids[1], "other ids"
    ways: list[tuple[str, str, Callable[[Any, Any, int], None]]] = [
        ("call", "transformers", call),
        ("call", "ZhuziTokenizer", call),
        ("datasets.map", "transformers", through_map),
        ("datasets.map", "ZhuziTokenizer", through_map),
        ("datasets.map, arrays", "ZhuziTokenizer", arrays_through_map),
    ]
    seconds: dict[tuple[str, str], list[float]] = {(name, engine): [] for name, engine, _ in ways}
    for _ in range(arguments.rounds):
        for name, engine, way in ways:
            started = time.perf_counter()
            way(loaded[engine], rows, arguments.batch)
            seconds[name, engine].append(time.perf_counter() - started)
    speed = {key: size / 1e6 / statistics.median(found) for key, found in seconds.items()}
    table: list[Row] = []
    for name in dict.fromkeys(name for name, _, _ in ways):
        theirs = speed[name.split(",")[0], "transformers"]
        ours = speed[name, "ZhuziTokenizer"]
        table.append((name, round(theirs, 1), round(ours, 1), round(ours / theirs, 1)))
    recorder.table(
        "hf",
        f"MB/s, batches of {arguments.batch:,} documents",
        ["", *loaded, "x transformers"],
        table,
        rounds=arguments.rounds,
        text_mb=round(size / 1e6, 1),
        documents=len(texts),
    )


if __name__ == "__main__":
    main()
