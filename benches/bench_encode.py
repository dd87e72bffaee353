"""Encoding speed beside every peer that is installed: python benches/bench_encode.py --model M FILE...

FILEs are .jsonl (field `text`) or .txt (a document a line), plain or .zst. Every measurement runs in a
process of its own with empty caches; engines take turns, the median of the rounds counts, and only ratios
within one run mean anything on a shared machine. Tables: all text, by file, by document length, by threads.
The number of tokens of an engine that claims to be exact is compared with sentencepiece's; a difference fails
the run.

Bias: we chose the files and the model; peers run through their Python interface with its usual result type
(lists of ids for sentencepiece, objects for tokenizers), and so do we (one buffer of ids).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

#: Engine -> module that must be installed.
PEERS = {
    "sentencepiece": "sentencepiece",
    "tokenizers": "transformers",
    "gigatoken": "gigatoken",
    "kitoken": "kitoken",
    "zhuzi": "zhuzi",
}
EXACT = {"sentencepiece", "zhuzi"}
LENGTHS = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]

Encode = Callable[[list[str]], int]


def load(engine: str, model: str, threads: int) -> Encode:
    """A function that encodes documents and returns the number of ids, by an engine that is ready to run."""
    if engine == "sentencepiece":
        import sentencepiece

        sp = sentencepiece.SentencePieceProcessor(model_file=model)
        return lambda docs: sum(map(len, sp.encode(docs, num_threads=threads)))
    if engine == "tokenizers":
        import shutil

        from transformers import LlamaTokenizer

        folder = tempfile.mkdtemp()
        shutil.copy(model, folder + "/tokenizer.model")
        hf = LlamaTokenizer.from_pretrained(folder)._tokenizer
        return lambda docs: sum(len(e.ids) for e in hf.encode_batch_fast(docs, add_special_tokens=False))
    if engine == "gigatoken":
        import gigatoken

        giga = gigatoken.Tokenizer(model)
        if threads > 1:
            return lambda docs: sum(map(len, giga.encode_batch(docs)))
        inner = next(
            v for v in vars(giga).values() if hasattr(v, "encode_batch") and hasattr(v, "encode_files")
        )
        return lambda docs: sum(map(len, inner.encode_batch(docs, parallel=False)))
    if engine == "kitoken":
        import kitoken

        kit = kitoken.Kitoken.from_file(model)
        return lambda docs: sum(len(kit.encode(doc)) for doc in docs)
    import zhuzi

    ours = zhuzi.Tokenizer.from_sentencepiece(model)
    return lambda docs: len(ours.encode_batch(docs, num_threads=threads).ids)


def measure(engine: str, model: str, threads: int, path: str) -> None:
    """Child process: encode the documents of `path` once, cold; print seconds and tokens."""
    docs = json.loads(Path(path).read_text("utf-8"))
    encode = load(engine, model, threads)
    encode(["预热 warm-up"])
    started = time.perf_counter()
    tokens = encode(docs)
    sys.stdout.write(json.dumps([time.perf_counter() - started, tokens]) + "\n")


def compare(
    engines: Sequence[str], model: str, threads: int, docs: list[str], rounds: int
) -> dict[str, float]:
    """Median seconds of each engine, taking turns; token counts of exact engines must agree."""
    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docs.json"
        path.write_text(json.dumps(docs), "utf-8")
        for _ in range(rounds):
            for engine in engines:
                if engine == "kitoken" and threads > 1:
                    continue
                command = [
                    sys.executable,
                    __file__,
                    "--child",
                    engine,
                    "--threads",
                    str(threads),
                    "--model",
                    model,
                ]
                environment = {
                    **os.environ,
                    "RAYON_NUM_THREADS": str(threads),
                    "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
                }
                run = subprocess.run([*command, str(path)], capture_output=True, text=True, env=environment)
                if run.returncode:
                    raise SystemExit(f"{engine}: {run.stderr.strip().splitlines()[-1]}")
                took, counts[engine] = json.loads(run.stdout.splitlines()[-1])
                seconds.setdefault(engine, []).append(took)
    exact = {counts[engine] for engine in counts if engine in EXACT}
    assert len(exact) == 1, f"exact engines disagree on the number of tokens: {counts}"
    return {engine: statistics.median(took) for engine, took in seconds.items()}


def read(path: Path) -> Iterator[str]:
    """The documents of a file that have characters."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    for line in data.decode("utf-8").split("\n"):
        text = json.loads(line)["text"] if line and ".jsonl" in path.name else line
        if text:
            yield text


def table(title: str, engines: Sequence[str], rows: list[tuple[str, int, dict[str, float]]]) -> None:
    """Print MB/s of each engine, and how many times sentencepiece's speed ours is."""
    say = sys.stdout.write
    say(f"\n{title}\n\n| | MB | " + " | ".join(f"{e} MB/s" for e in engines) + " | zhuzi / sentencepiece |\n")
    say("|---|---|" + "---|" * (len(engines) + 1) + "\n")
    for name, size, seconds in rows:
        speeds = [f"{size / 1e6 / seconds[e]:.1f}" if e in seconds else "" for e in engines]
        ratio = seconds["sentencepiece"] / seconds["zhuzi"]
        say(f"| {name} | {size / 1e6:.1f} | " + " | ".join(speeds) + f" | {ratio:.1f} |\n")


def size_of(docs: Sequence[str]) -> int:
    return sum(len(doc.encode()) for doc in docs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="SentencePiece model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mb", type=float, default=60, help="text of the table over all files")
    parser.add_argument("--tables", default="all,file,length,threads")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.child, args.model, args.threads, str(args.files[0]))
        return

    engines = [engine for engine, module in PEERS.items() if find_spec(module)]
    by_file = {path.name.split(".")[0]: list(read(path)) for path in args.files}
    everything = [doc for docs in by_file.values() for doc in docs]
    random.Random(1).shuffle(everything)
    while size_of(everything) > args.mb * 1e6:
        everything = everything[: len(everything) * 9 // 10]
    cores = len(os.sched_getaffinity(0))
    sys.stdout.write(
        f"{platform.processor() or platform.machine()}, {cores} cores, {platform.python_version()}, model "
        f"{Path(args.model).name}, {args.rounds} rounds, every engine cold\n"
    )

    def run(docs: list[str], threads: int = 1) -> dict[str, float]:
        return compare(engines, args.model, threads, docs, args.rounds)

    if "all" in args.tables:
        rows = [(f"{len(everything)} documents", size_of(everything), run(everything))]
        table("All text, one thread", engines, rows)
    if "file" in args.tables:
        rows = [(name, size_of(docs), run(docs)) for name, docs in by_file.items()]
        table("By file, one thread", engines, rows)
    if "threads" in args.tables:
        rows = [(f"{n} threads", size_of(everything), run(everything, n)) for n in range(1, cores + 1)]
        table("By threads", engines, rows)
    if "length" in args.tables:
        engines = [engine for engine in engines if engine in EXACT]
        whole = "\n".join(everything)
        rows = []
        for length in LENGTHS:
            document = (
                (whole * (length // len(whole.encode()) + 1)).encode()[:length].decode("utf-8", "ignore")
            )
            docs = [document] * max(1, 10_000_000 // length)
            rows.append((f"documents of {length:,} bytes", size_of(docs), run(docs)))
        table("By document length, one thread", engines, rows)


if __name__ == "__main__":
    main()
