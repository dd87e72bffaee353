"""Files to token shards beside what people use today.

    python benches/bench_corpus.py --model TOKENIZER_FOLDER --text FILE.jsonl

Every measurement runs in a process of its own, on the same cores, taking turns; peak memory is the process's
ru_maxrss (mapped pages included; the largest of its children where it has some). A slow peer gets a part of
the file, and its speed is that of the part. `--record FILE` appends the tables to a file of records such as
benches/results.json.

  zhuzi       `zhuzi corpus encode`, from file to fsynced shards
  gigatoken   `encode_files`: the ids of all documents in memory, nothing written; on merged vocabularies its
              ids differ from sentencepiece's
  megatron    what tools/preprocess_data.py does, without its imports: a pool of processes parses lines and
              encodes with sentencepiece, the parent writes `.bin` and `.idx`
  datasets    `load_dataset("json")`, `map` with transformers' tokenizer, `map` with `group_texts`

Bias: we chose the text and the model; we wrote the peers' programs, following their documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recording import Recorder

#: Bytes of the text that a peer gets at most.
MOST = {"zhuzi": 1 << 62, "gigatoken": 1 << 30, "megatron": 100 << 20, "datasets": 30 << 20}


def zhuzi(text: str, folder: str, out: Path, threads: int) -> int:
    import zhuzi

    return zhuzi.encode_corpus([text], folder, out, num_threads=threads).tokens


def gigatoken(text: str, folder: str, out: Path, threads: int) -> int:
    import gigatoken

    tokenizer = gigatoken.Tokenizer(f"{folder}/tokenizer.model")
    ids = tokenizer.encode_files(gigatoken.JsonlFileSource([text]), parallel=threads > 1)
    return sum(map(len, ids))


_sp = None


def _megatron_start(folder: str) -> None:
    import sentencepiece

    global _sp
    _sp = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")


def _megatron_line(line: bytes) -> list[int]:
    assert _sp is not None
    return [*_sp.encode(json.loads(line)["text"]), 2]


def megatron(text: str, folder: str, out: Path, threads: int) -> int:
    import multiprocessing

    import numpy as np

    out.mkdir()
    lengths = []
    with (
        Path(text).open("rb") as lines,
        (out / "x.bin").open("wb") as file,
        multiprocessing.Pool(threads, _megatron_start, (folder,)) as pool,
    ):
        for ids in pool.imap(_megatron_line, lines, 32):
            file.write(np.array(ids, dtype=np.uint16).tobytes())
            lengths.append(len(ids))
    np.array(lengths, np.int32).tofile(out / "x.idx")
    return sum(lengths)


def datasets(text: str, folder: str, out: Path, threads: int) -> int:
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    block = 512

    def group_texts(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        whole = {key: [id for ids in rows for id in ids] for key, rows in batch.items()}
        end = len(whole["input_ids"]) // block * block
        cut = {key: [ids[i : i + block] for i in range(0, end, block)] for key, ids in whole.items()}
        cut["labels"] = cut["input_ids"].copy()
        return cut

    rows = datasets.load_dataset("json", data_files=text, split="train", cache_dir=str(out / "cache"))
    names = rows.column_names
    ids = rows.map(
        lambda b: tokenizer(b["text"], add_special_tokens=False),
        batched=True,
        remove_columns=names,
        num_proc=threads,
    )
    return ids.map(group_texts, batched=True, num_proc=threads).num_rows * block


ENGINES: dict[str, Callable[[str, str, Path, int], int]] = {
    "zhuzi": zhuzi,
    "gigatoken": gigatoken,
    "megatron": megatron,
    "datasets": datasets,
}


def child(engine: str, text: str, folder: str, out: str, threads: int) -> None:
    """One measurement: seconds, tokens, peak memory in MB, where the time went."""
    if engine == "datasets":
        import datasets  # noqa: F401  # its import is not what is measured
        import transformers  # noqa: F401
    started = time.perf_counter()
    tokens = ENGINES[engine](text, folder, Path(out), threads)
    seconds = time.perf_counter() - started
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    run = Path(out) / "run.json"
    stages = json.loads(run.read_text())["thread_seconds"] if run.exists() else {}
    sys.stdout.write(json.dumps([seconds, tokens, peak >> 10, stages]) + "\n")


def measure(engine: str, text: Path, folder: Path, threads: int) -> tuple[float, int, int, dict[str, float]]:
    with tempfile.TemporaryDirectory(dir=text.parent) as out:
        line = [sys.executable, __file__, "--child", engine, "--text", str(text), "--model", str(folder)]
        line += ["--out", f"{out}/out", "--threads", str(threads)]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise RuntimeError(f"{engine}: {done.stderr[-2000:]}")
        seconds, tokens, peak, stages = json.loads(done.stdout.splitlines()[-1])
        return seconds, tokens, peak, stages


def head(text: Path, most: int, folder: Path) -> Path:
    """The first whole lines of a file, up to so many bytes."""
    if text.stat().st_size <= most:
        return text
    part = folder / f"head-{most}.jsonl"
    if not part.exists():
        with text.open("rb") as source, part.open("wb") as out:
            left = most
            for line in source:
                left -= len(line)
                if left < 0:
                    break
                out.write(line)
    return part


def compare(
    text: Path, folder: Path, threads: int, rounds: int, engines: list[str], recorder: Recorder
) -> None:
    """Measure, print and record both tables: the engines, and where our time goes."""
    results: dict[str, list[tuple[float, int, int, dict[str, float]]]] = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory(dir=text.parent) as place:
        parts = {engine: head(text, MOST[engine], Path(place)) for engine in engines}
        for _ in range(rounds):
            for engine in engines:
                results[engine].append(measure(engine, parts[engine], folder, threads))
        sizes = {engine: part.stat().st_size for engine, part in parts.items()}
    seconds = {engine: statistics.median(run[0] for run in runs) for engine, runs in results.items()}
    speeds = {engine: sizes[engine] / 1e6 / took for engine, took in seconds.items()}
    rows = [
        (
            engine,
            round(sizes[engine] / 1e6),
            round(seconds[engine], 1),
            round(speeds[engine], 1),
            round(speeds["zhuzi"] / speeds[engine], 1),
            max(run[2] for run in runs),
            runs[0][1],
        )
        for engine, runs in results.items()
    ]
    columns = ["engine", "MB of jsonl", "seconds", "MB/s", "zhuzi is faster by", "peak MB", "tokens"]
    how = {"rounds": rounds, "threads": threads, "text_mb": round(text.stat().st_size / 1e6)}
    recorder.table("engines", f"From file to shards, {threads} threads", columns, rows, **how)
    stages = results["zhuzi"][0][3]
    whole = sum(stages.values())
    recorder.table(
        "stages",
        "Where the time of zhuzi goes, all threads together",
        ["stage", "seconds", "share"],
        [
            (stage, round(stages[stage], 2), f"{100 * stages[stage] / whole:.1f} %")
            for stage in ("read", "parse", "encode", "write", "commit")
        ],
        **how,
    )


@pytest.mark.bench
def test_corpus(tmp_path: Path) -> None:
    """A small form on the built-in sample: peers that are installed, and equal counts where ids are exact."""
    from importlib.resources import files

    import zhuzi

    model = files("mistral_common") / "data" / "tokenizer.model.v1"
    zhuzi.Tokenizer.from_sentencepiece(str(model)).save(tmp_path / "tokenizer")
    sample = (files("zhuzi.demo") / "data" / "zh.jsonl").read_bytes()
    text = tmp_path / "zh.jsonl"
    text.write_bytes(sample * (20_000_000 // len(sample)))
    ours = measure("zhuzi", text, tmp_path / "tokenizer", 2)
    peer = measure("megatron", text, tmp_path / "tokenizer", 2)
    assert ours[1] == peer[1]
    sys.stdout.write(f"\nzhuzi {ours[0]:.2f} s, megatron-style {peer[0]:.2f} s for 20 MB\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="tokenizer folder")
    parser.add_argument("--text", type=Path, required=True, help="a jsonl file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only these, zhuzi always")
    parser.add_argument("--label", default="", help="what the text and the model are, for the record")
    parser.add_argument("--record", type=Path, help="append the tables to this file of records")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, str(args.text), str(args.model), args.out, args.threads)
        return
    engines = [e for e in ENGINES if e == "zhuzi" or not args.engine or e in args.engine]
    recorder = Recorder("corpus", args.label, args.record)
    compare(args.text, args.model, args.threads, args.rounds, engines, recorder)


if __name__ == "__main__":
    main()
