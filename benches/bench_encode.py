"""Encoding speed beside every peer that is installed: python benches/bench_encode.py --model M FILE...

FILEs are .jsonl (field `text`) or .txt (one document per line), plain or .zst. Every measurement runs in a
process of its own with cold caches, on memory that the system has ready; engines take turns, and the median
of the rounds counts. On a shared machine only ratios within one run mean anything. Tables: all text, by file,
by document length, by threads (with what as many independent processes reach together), and hostile texts,
whose cost per byte is given beside that of ordinary text, at 1 MB and at 100 MB. `--record FILE` appends the
tables to a file of records such as benches/results.json.

Engines that claim to be exact must give sentencepiece's ids for every document of the table over all text,
and its number of tokens everywhere else; a difference fails the run.

Bias: we chose the files and the model; peers run through their Python interface with its usual result type
(lists of ids for sentencepiece, objects for tokenizers), and so do we (one buffer of ids).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import mmap
import operator
import os
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

from recording import Recorder, Row

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


def digest(engine: str, model: str, path: str) -> None:
    """Child process: print a hash of the ids of each document."""
    result = load(engine, model, 1)(json.loads(Path(path).read_text("utf-8")))
    # The hash of a tuple of integers is the same in every process.
    hashes = [hash(tuple(map(int, getattr(ids, "ids", ids)))) for ids in result]
    sys.stdout.write(json.dumps(hashes) + "\n")


def differing(engines: Sequence[str], model: str, docs: list[str]) -> dict[str, str]:
    """Of each engine the share of documents whose ids are others than sentencepiece's."""
    hashes: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docs.json"
        path.write_text(json.dumps(docs), "utf-8")
        for engine in engines:
            line = [sys.executable, __file__, "--digest", engine, "--model", model, str(path)]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                hashes[engine] = json.loads(done.stdout.splitlines()[-1])
    wanted = hashes["sentencepiece"]
    shares = {e: sum(map(operator.ne, got, wanted)) / len(wanted) for e, got in hashes.items()}
    assert not any(shares[engine] for engine in EXACT), f"exact engines differ: {shares}"
    return {engine: f"{100 * share:.1f} %" if share else "0 %" for engine, share in shares.items()}


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


def by_engine(
    size: int, one: dict[str, float], all_cores: dict[str, float], differ: dict[str, str]
) -> list[Row]:
    """MB/s of each engine on one thread and on all, times sentencepiece's, and where its ids differ."""
    return [
        (
            engine,
            round(size / 1e6 / took, 1),
            round(one["sentencepiece"] / took, 1),
            round(size / 1e6 / all_cores[engine], 1) if engine in all_cores else None,
            differ.get(engine),
        )
        for engine, took in one.items()
    ]


def speeds(engines: Sequence[str], rows: list[tuple[str, int, dict[str, float]]]) -> list[Row]:
    """MB/s of each engine in columns, and how many times sentencepiece's speed ours is."""
    return [
        (
            name,
            round(size / 1e6, 1),
            *(round(size / 1e6 / seconds[e], 1) if e in seconds else None for e in engines),
            round(seconds["sentencepiece"] / seconds["zhuzi"], 1),
        )
        for name, size, seconds in rows
    ]


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


def hostile_rows(everything: list[str], model: str, rounds: int) -> Iterator[Row]:
    """Cost per byte beside ordinary text, its growth from 1 to 100 MB, and sentencepiece's cost at 1 MB."""
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
        relative = round(ours / usual, 1), round(grown, 1), round(grown / ours, 2)
        yield name, round(ours, 1), *relative, round(theirs), round(theirs / ours)


def share_of_han(text: str) -> float:
    return sum("\u4e00" <= c <= "\u9fff" for c in text) / len(text)


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
    parser.add_argument("--min-han", type=float, default=0, help="only documents with this share of Han")
    parser.add_argument("--label", default="", help="what the text and the model are, for the record")
    parser.add_argument("--record", type=Path, help="append the tables to this file of records")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--digest", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.child, args.model, args.threads, str(args.files[0]))
        return
    if args.digest:
        digest(args.digest, args.model, str(args.files[0]))
        return
    run_tables(args)


def run_tables(args: argparse.Namespace) -> None:
    """Measure, print and record the tables that were asked for."""
    recorder = Recorder("encode", args.label, args.record)
    engines = [engine for engine, module in PEERS.items() if find_spec(module)]
    by_file = {
        path.name.split(".")[0]: [doc for doc in read(path) if share_of_han(doc) >= args.min_han]
        for path in args.files
    }
    everything = [doc for docs in by_file.values() for doc in docs]
    random.Random(1).shuffle(everything)
    while size_of(everything) > args.mb * 1e6:
        everything = everything[: len(everything) * 9 // 10]
    size, cores = size_of(everything), len(os.sched_getaffinity(0))
    text = {"rounds": args.rounds, "text_mb": round(size / 1e6, 1), "documents": len(everything)}
    columns = ["", "MB", *(f"{engine} MB/s" for engine in engines), "zhuzi / sentencepiece"]

    def run(docs: list[str], threads: int = 1, processes: int = 1) -> dict[str, float]:
        return compare(engines, args.model, threads, docs, args.rounds, processes)

    if "all" in args.tables:
        rows = by_engine(
            size, run(everything), run(everything, cores), differing(engines, args.model, everything)
        )
        names = [
            "engine",
            "1 thread, MB/s",
            "x sentencepiece",
            f"{cores} threads, MB/s",
            "documents that differ",
        ]
        recorder.table("all", "All text", names, rows, **text)
    if "file" in args.tables:
        found = [(name, size_of(docs), run(docs)) for name, docs in by_file.items() if docs]
        recorder.table("file", "By file, one thread", columns, speeds(engines, found), rounds=args.rounds)
    if "threads" in args.tables:
        found = []
        for n in range(1, cores + 1):
            found.append((f"{n} threads", size, run(everything, n)))
            if n > 1:
                found.append((f"{n} processes of one thread", size, run(everything, processes=n)))
        recorder.table("threads", "By threads", columns, speeds(engines, found), **text)
    if "length" in args.tables:
        exact = [engine for engine in engines if engine in EXACT]
        whole = "\n".join(everything)
        found = []
        for length in LENGTHS:
            document = (
                (whole * (length // len(whole.encode()) + 1)).encode()[:length].decode("utf-8", "ignore")
            )
            docs = [document] * max(1, 10_000_000 // length)
            found.append(
                (f"{length:,} bytes", size_of(docs), compare(exact, args.model, 1, docs, args.rounds))
            )
        names = ["documents of", "MB", *(f"{engine} MB/s" for engine in exact), columns[-1]]
        title = "By document length, one thread"
        recorder.table("length", title, names, speeds(exact, found), rounds=args.rounds)
    if "hostile" in args.tables:
        names = [
            "",
            "zhuzi, 1 MB",
            "x ordinary",
            "100 MB",
            "100 MB / 1 MB",
            "sentencepiece, 1 MB",
            "zhuzi is faster by",
        ]
        rows = list(hostile_rows(everything, args.model, args.rounds))
        title = "Hostile texts, one thread: nanoseconds per byte"
        recorder.table("hostile", title, names, rows, rounds=args.rounds)


if __name__ == "__main__":
    main()
