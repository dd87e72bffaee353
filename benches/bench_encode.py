"""Encoding speed beside every peer that is installed: python benches/bench_encode.py --model M FILE...

FILEs are .jsonl (field `text`) or .txt (a document a line), plain or .zst. Every measurement runs in a
process of its own with empty caches, but memory that the system has at hand; engines take turns, the median
of the rounds counts, and only ratios within one run mean anything on a shared machine. Tables: all text, by
file, by document length, by threads (with what as many independent processes reach together), and hostile
texts, whose cost a byte is given beside that of ordinary text, at 1 MB and at 100 MB.
The number of tokens of an engine that claims to be exact is compared with sentencepiece's; a difference fails
the run.

Bias: we chose the files and the model; peers run through their Python interface with its usual result type
(lists of ids for sentencepiece, objects for tokenizers), and so do we (one buffer of ids).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import mmap
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
from typing import Any

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

Encode = Callable[[list[str]], Any]


def load(engine: str, model: str, threads: int) -> Encode:
    """A function that encodes documents, by an engine that is ready to run."""
    if engine == "sentencepiece":
        import sentencepiece

        sp = sentencepiece.SentencePieceProcessor(model_file=model)
        return lambda docs: sp.encode(docs, num_threads=threads)
    if engine == "tokenizers":
        import shutil

        from transformers import LlamaTokenizer

        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(model, folder + "/tokenizer.model")
            hf = LlamaTokenizer.from_pretrained(folder)._tokenizer
        return lambda docs: hf.encode_batch_fast(docs, add_special_tokens=False)
    if engine == "gigatoken":
        import gigatoken

        giga = gigatoken.Tokenizer(model)
        if threads > 1:
            return giga.encode_batch
        inner = next(
            v for v in vars(giga).values() if hasattr(v, "encode_batch") and hasattr(v, "encode_files")
        )
        return lambda docs: inner.encode_batch(docs, parallel=False)
    if engine == "kitoken":
        import kitoken

        kit = kitoken.Kitoken.from_file(model)
        return lambda docs: [kit.encode(doc) for doc in docs]
    import zhuzi

    ours = zhuzi.Tokenizer.from_sentencepiece(model)
    return lambda docs: ours.encode_batch(docs, num_threads=threads)


def ready_memory(size: int) -> None:
    """Use and give back so many bytes, so that the system has them at hand.

    A virtual machine may have returned freed memory to its host, and then waits for each page of it: that
    would be measured instead of the engine. It warms nothing of an engine's, and all of them get it.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = b"\1" * len(range(0, size, mmap.PAGESIZE))


def measure(engine: str, model: str, threads: int, path: str) -> None:
    """Child process: encode the documents of `path` once, cold; print seconds and tokens."""
    docs = json.loads(Path(path).read_text("utf-8"))
    encode = load(engine, model, threads)
    encode(["预热 warm-up"])
    ready_memory(max(1 << 26, 8 * size_of(docs)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started = time.perf_counter()
    result = encode(docs)
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps([seconds, sum(len(getattr(ids, "ids", ids)) for ids in result)]) + "\n")


def run_children(
    engine: str, model: str, threads: int, path: Path, processes: int
) -> list[tuple[float, int]]:
    """Seconds and tokens of processes that encode the same documents at the same time."""
    command = [
        sys.executable,
        __file__,
        "--child",
        engine,
        "--threads",
        str(threads),
        "--model",
        model,
        str(path),
    ]
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [
        subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
        for _ in range(processes)
    ]
    if all(child.stdout.readline() for child in children):
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
    results = []
    for child in children:
        said, complaint = child.communicate()
        if child.returncode:
            raise RuntimeError(f"{engine}: {complaint.strip().splitlines()[-1]}")
        results.append(tuple(json.loads(said.splitlines()[-1])))
    return results


def compare(
    engines: Sequence[str], model: str, threads: int, docs: list[str], rounds: int, processes: int = 1
) -> dict[str, float]:
    """Median seconds of each engine, taking turns; token counts of exact engines must agree.

    Of several processes it is the time in which they encode the documents once, together.
    """
    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    failed: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docs.json"
        path.write_text(json.dumps(docs), "utf-8")
        for _ in range(rounds):
            for engine in engines:
                if engine in failed or (engine == "kitoken" and threads > 1):
                    continue
                try:
                    results = run_children(engine, model, threads, path, processes)
                except RuntimeError as error:
                    if engine in EXACT:
                        raise
                    # A peer need not take every model.
                    sys.stderr.write(f"left out: {error}\n")
                    failed.add(engine)
                    continue
                counts[engine] = results[0][1]
                took = 1 / sum(1 / took for took, _ in results)
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


def linked_han(size: int, pieces: Sequence[str], draw: random.Random) -> str:
    """A random walk over Han characters, each of which some piece holds before the next: no place to cut."""
    behind: dict[str, list[str]] = {}
    for piece in pieces:
        for left, right in itertools.pairwise(piece):
            if min(left, right) >= "\u4e00" and max(left, right) <= "\u9fff":
                behind.setdefault(left, []).append(right)
    while dead := [left for left, found in behind.items() if not any(c in behind for c in found)]:
        for left in dead:
            del behind[left]
    behind = {left: [c for c in found if c in behind] for left, found in behind.items()}
    at = draw.choice(list(behind))
    walk = []
    for _ in range(size // 3):
        walk.append(at)
        at = draw.choice(behind[at])
    return "".join(walk)


def hostile(size: int, pieces: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Texts of so many bytes made to be slow, by name: periodic ones, and some that suit no cache."""
    for unit in ("a", " ", "\n", "-", "中国", "的", "龘", "😀", "abcdefghij"):
        yield f"{unit!r} repeated", unit * (size // len(unit.encode()))
    draw = random.Random(3)
    for name, alphabet in (
        ("random letters", "abcdefghijklmnopqrstuvwxyz"),
        ("random digits", "0123456789"),
        ("base64", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
        ("spaces and dashes", " -"),
        ("random a and b", "ab"),
    ):
        yield name, "".join(draw.choices(alphabet, k=size))
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(size // 6)
    ]
    yield "random words", " ".join(words)[:size]
    yield "linked Han", linked_han(size, pieces, draw)
    yield "'ab' repeated", "ab" * (size // 2)


def hostile_table(everything: list[str], model: str, rounds: int) -> None:
    """Cost a byte against ordinary text, its growth from 1 to 100 MB, and sentencepiece's cost at 1 MB."""
    say = sys.stdout.write
    say("\nHostile texts, one thread: nanoseconds a byte\n\n")
    say(
        "| | zhuzi, 1 MB | x ordinary | 100 MB | 100 MB / 1 MB | sentencepiece, 1 MB | zhuzi is faster by |\n"
    )
    say("|---|---|---|---|---|---|---|\n")
    ordinary = "\n".join(everything).encode()
    small, large = 10**6, 10**8

    def usual_text(size: int) -> str:
        return (ordinary * (size // len(ordinary) + 1))[:size].decode("utf-8", "ignore")

    import zhuzi

    pieces = [piece.text for piece in zhuzi.Tokenizer.from_sentencepiece(model).pieces()]
    longer = {**dict(hostile(large, pieces)), "ordinary text": usual_text(large)}
    usual = 0.0
    for name, text in [("ordinary text", usual_text(small)), *hostile(small, pieces)]:
        took = compare(["sentencepiece", "zhuzi"], model, 1, [text], rounds)
        grown = compare(["zhuzi"], model, 1, [longer.pop(name)], 1)["zhuzi"] / large * 1e9
        ours, theirs = took["zhuzi"] / small * 1e9, took["sentencepiece"] / small * 1e9
        usual = usual or ours
        say(
            f"| {name} | {ours:.1f} | {ours / usual:.1f} | {grown:.1f} | {grown / ours:.2f} | {theirs:.0f} | "
        )
        say(f"{theirs / ours:.0f} |\n")


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
    parser.add_argument("--tables", default="all,file,threads,length,hostile")
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

    def run(docs: list[str], threads: int = 1, processes: int = 1) -> dict[str, float]:
        return compare(engines, args.model, threads, docs, args.rounds, processes)

    if "all" in args.tables:
        rows = [(f"{len(everything)} documents", size_of(everything), run(everything))]
        table("All text, one thread", engines, rows)
    if "file" in args.tables:
        rows = [(name, size_of(docs), run(docs)) for name, docs in by_file.items()]
        table("By file, one thread", engines, rows)
    if "threads" in args.tables:
        rows = []
        for n in range(1, cores + 1):
            rows.append((f"{n} threads", size_of(everything), run(everything, n)))
            if n > 1:
                rows.append(
                    (f"{n} processes of one thread", size_of(everything), run(everything, processes=n))
                )
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
    if "hostile" in args.tables:
        hostile_table(everything, args.model, args.rounds)


if __name__ == "__main__":
    main()
