"""Continued BPE (`zhuzi vocab extend`) beside donors that sentencepiece trains: time, memory, what they buy.

    python benches/bench_extend.py --base TOKENIZER FOLDER

FOLDER holds sources of text, one a file (or folder), of any kind that `zhuzi corpus encode` reads. Tables:

  speed    learning `--pieces` new pieces from all of the text, beside sentencepiece's BPE trainer with as
           many. Both read one file of lines. Every measurement runs in a process of its own, taking turns:
           seconds from file to model without imports, peak memory as ru_maxrss; medians of the rounds
  growth   the same on `--growth` MB of text, made of clauses of the sources in random order, so that
           sentences do not repeat; --sample-bytes is the first of the sizes: a larger one is sampled
  quality  trained on two thirds of the sources, judged on the others (every third by size). Donors are
           trained by sentencepiece, merged by `--policy paper`, and give as many new pieces; all
           vocabularies cover the same characters (coverage 0.9995 of the training text); and `drift`, on
           the same text: lines without Han whose ids are not the base's, documents that became longer

`--record FILE` appends the tables to a file of records such as benches/results.json.

Bias: we chose text, base and peers. sentencepiece runs without its normaliser, which is faster, and gives
donors that fit the base's text better than those of NFKC; all of its lines are used.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recording import Recorder

PIECES = 17_953  # what the published donor brings to LLaMA (arXiv 2304.08177)
COVERAGE = 0.9995
HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = (  # the punctuation of Chinese text, as `--scripts han` takes it
    "\u00b7\u2014\u2018\u2019\u201c\u201d\u2026\u3001-\u3003\u3008-\u3011\u3014-\u301f\u3030\u303d\u30fb"
    "\ufe10-\ufe19\ufe30-\ufe6b\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
#: What "tokens of Han runs" counts: Han alone, and Han with its punctuation.
RUNS = (f"[{HAN}]+", f"[{MARKS}]*[{HAN}][{HAN}{MARKS}]*")
PACKAGES = ("sentencepiece",)


def sentencepiece(text: str, base: str, out: Path, args: Any) -> None:
    train_donor(text, out, "bpe", args.pieces, args.threads)


def extend(scripts: Any) -> Callable[[str, str, Path, Any], None]:
    def run(text: str, base: str, out: Path, args: Any) -> None:
        import zhuzi

        zhuzi.extend_vocab(
            text, base, out, new_pieces=args.pieces, scripts=scripts, characters="none",
            num_threads=args.threads, sample_bytes=args.sample_bytes,
        )  # fmt: skip

    return run


ENGINES: dict[str, Callable[[str, str, Path, Any], None]] = {
    "sentencepiece": sentencepiece,
    "extend han": extend("han"),
    "extend all": extend("all"),
}


def train_donor(
    text: str, out: Path, kind: str, pieces: int, threads: int, characters: str | None = None
) -> Path:
    """Train a donor; with `characters` its alphabet is these."""
    import sentencepiece

    alphabet: dict[str, Any] = {}
    if characters is not None:
        alphabet = {"required_chars": characters, "character_coverage": 0.98}
    sentencepiece.SentencePieceTrainer.train(
        input=text, model_prefix=str(out), vocab_size=pieces, model_type=kind, num_threads=threads,
        normalization_rule_name="identity", split_digits=True, max_sentence_length=1 << 20,
        minloglevel=2, **alphabet,
    )  # fmt: skip
    return Path(f"{out}.model")


def child(args: Any) -> None:
    """One measurement: seconds, seconds of all threads on a processor, peak memory in MB."""
    import sentencepiece  # noqa: F401  # imports are not what is measured

    import zhuzi.vocab.extend  # noqa: F401

    with tempfile.TemporaryDirectory() as place:
        started, used = time.perf_counter(), time.process_time()
        ENGINES[args.child](str(args.folder), str(args.base), Path(place) / "out", args)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(json.dumps([seconds, used, peak]) + "\n")


def measure(engine: str, text: Path, threads: int, args: Any) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak MB of one engine in a process of its own."""
    words = [sys.executable, __file__, str(text), "--child", engine, "--base", str(args.base)]
    words += ["--threads", str(threads), "--pieces", str(args.pieces)]
    words += ["--sample-bytes", str(args.sample_bytes)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr[-2000:]}")
    seconds, used, peak = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{engine}, {threads} threads: {seconds:.2f} s ({used:.2f} s), {peak:,} MB\n")
    return seconds, used, peak


def sources(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if len(found) < 3:
        raise SystemExit(f"{folder}: wants three sources or more, each a file or a folder")
    return found


def documents(paths: Sequence[Path]) -> Iterator[str]:
    from zhuzi.corpus.read import read_texts

    return iter(read_texts(paths))


def write_lines(texts: Iterable[str], file: Path) -> Path:
    """Write the lines of texts, without tabs and the character that sentencepiece reserves."""
    with file.open("w", encoding="utf-8") as out:
        for text in texts:
            for line in text.replace("\t", " ").replace("\u2585", " ").splitlines():
                if line.strip():
                    out.write(line + "\n")
    return file


def varied(file: Path, megabytes: int, out: Path) -> Path:
    """Lines of eight clauses of the text each, drawn at random, so that sentences do not repeat."""
    clauses = re.findall(r"[^，。！？；,.!?;\n]+[，。！？；,.!?;\n]?", file.read_text("utf-8"))
    draw = random.Random(1)
    left = megabytes * 1_000_000
    with out.open("w", encoding="utf-8") as target:
        while left > 0:
            line = "".join(draw.choices(clauses, k=8)).replace("\n", "") + "\n"
            left -= len(line.encode())
            target.write(line)
    return out


def speed(text: Path, place: Path, args: Any, recorder: Recorder) -> None:
    """Time and memory beside sentencepiece, for each number of threads."""
    keys = [(engine, threads) for threads in args.thread_counts for engine in ENGINES]
    runs: dict[tuple[str, int], list[tuple[float, float, int]]] = {key: [] for key in keys}
    for _ in range(args.rounds):
        for engine, threads in keys:
            runs[engine, threads].append(measure(engine, text, threads, args))
    seconds, used, peaks = (
        {key: statistics.median(run[at] for run in held) for key, held in runs.items()} for at in range(3)
    )
    rows = []
    for engine, threads in keys:
        peer, one = ("sentencepiece", threads), (engine, args.thread_counts[0])
        took, peak = seconds[engine, threads], peaks[engine, threads]
        rows.append(
            (
                engine,
                threads,
                round(took, 1),
                round(took / seconds[peer], 2),
                round(seconds[one] / took, 2),
                round(used[engine, threads], 1),
                round(peak),
                round(peak / peaks[peer], 2),
            )
        )
    columns = ["trainer", "threads", "seconds", "of sentencepiece's", "x one thread", "on processors"]
    recorder.table(
        "speed",
        f"{args.pieces:,} pieces",
        [*columns, "peak MB", "of sentencepiece's MB"],
        rows,
        rounds=args.rounds,
        text_mb=round(text.stat().st_size / 1e6),
    )


def growth(text: Path, place: Path, args: Any, recorder: Recorder) -> None:
    """Time and memory of larger texts; beyond the first size they are sampled."""
    args.sample_bytes = args.growth[0] * 1_000_000
    threads = args.thread_counts[-1]
    rows = []
    for size in args.growth:
        file = varied(text, size, place / "varied.txt")
        for engine in ("extend han", "extend all"):
            seconds, _, peak = measure(engine, file, threads, args)
            rows.append((engine, size, round(seconds, 1), peak))
        file.unlink()
    recorder.table(
        "growth",
        f"{args.pieces:,} pieces, at most {args.growth[0]:,} MB sampled",
        ["trainer", "MB of text", "seconds", "peak MB"],
        rows,
        rounds=1,
        threads=threads,
    )


def alphabet(file: Path) -> tuple[str, str]:
    """The most frequent characters of a text that make up the coverage, and the others."""
    counts = Counter(file.read_text("utf-8"))
    for skipped in "\n \u2581":
        counts.pop(skipped, None)
    left = counts.total() * COVERAGE
    listed: list[str] = []
    others: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        (listed if left > 0 and character.isprintable() else others).append(character)
        left -= count
    return "".join(listed), "".join(others)


def donor(kind: str, text: Path, characters: str, place: Path, args: Any) -> Path:
    """A merged vocabulary with exactly as many new pieces, over a donor trained with a few more."""
    from sentencepiece import sentencepiece_model_pb2

    import zhuzi

    size = args.pieces + 1000  # of which the base has about as many
    while True:
        file = train_donor(
            str(text), place / f"{kind}-{size}", kind, size, args.thread_counts[-1], characters
        )
        made = zhuzi.merge_vocab(args.base, file, place / kind, overwrite=True)
        spare = made.vocab_size - made.base_size - args.pieces
        sys.stderr.write(f"{kind}: {size:,} pieces, {spare:+,} new ones\n")
        if 0 <= spare <= args.pieces // 50:
            break
        size -= spare - args.pieces // 200
    model = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    base = {piece.text for piece in zhuzi.Tokenizer.from_dir(place / kind).pieces()[: made.base_size]}
    # The last ones in the trainer's order, as if it had been asked for fewer; never a character.
    for index in range(len(model.pieces) - 1, -1, -1):
        piece = model.pieces[index].piece
        if spare and len(piece) > 1 and piece not in base:
            del model.pieces[index]
            spare -= 1
    file.write_bytes(model.SerializeToString())
    made = zhuzi.merge_vocab(args.base, file, place / kind, overwrite=True)
    assert made.vocab_size - made.base_size == args.pieces
    return place / kind


def vocabularies(text: Path, place: Path, args: Any) -> dict[str, Path]:
    """Train what is compared; returns the folders."""
    import zhuzi

    listed, others = alphabet(text)
    lists = {}
    for scripts, wanted in (("han", f"[{HAN}]"), ("all", ".")):
        chosen = "".join(re.findall(wanted, listed))
        (place / f"{scripts}.txt").write_text("\n".join(chosen), "utf-8")
        lists[scripts] = {
            "characters": place / f"{scripts}.txt", "scripts": scripts, "forbidden": list(others),
            "new_pieces": args.pieces, "num_threads": args.thread_counts[-1],
        }  # fmt: skip
    for scripts, options in lists.items():
        zhuzi.extend_vocab(text, args.base, place / f"extend-{scripts}", **options)
    return {
        "extend all": place / "extend-all",
        "extend han": place / "extend-han",
        "sentencepiece BPE, paper": donor("bpe", text, listed, place, args),
        "sentencepiece unigram, paper": donor("unigram", text, listed, place, args),
    }


class Judge:
    """What is counted on the held-out text, with the base's counts."""

    def __init__(self, base: Path, texts: Sequence[str]) -> None:
        from zhuzi.vocab import dead_pieces

        self.base = self.load(base)
        self.texts = texts
        self.bytes = sum(len(text.encode()) for text in texts)
        self.runs = []
        for pattern in RUNS:
            runs = [run for text in texts for run in re.findall(pattern, text)]
            self.runs.append(["\n".join(runs[at : at + 1000]) for at in range(0, len(runs), 1000)])
        lines = dict.fromkeys(line for text in texts for line in text.splitlines())
        self.lines = [line for line in lines if line.strip() and not re.search(f"[{HAN}]", line)]
        self.dead = {piece.id for piece in dead_pieces(base)}
        self.before = self.base.encode_batch(texts)
        self.before_lines = self.base.encode_batch(self.lines).tolist()

    @staticmethod
    def load(path: Path) -> Any:
        from zhuzi import Tokenizer

        return Tokenizer.from_dir(path) if path.is_dir() else Tokenizer.from_sentencepiece(path)

    def judge(self, name: str, path: Path) -> tuple[list[Any], list[Any]]:
        """The rows of a vocabulary in both tables."""
        from zhuzi.vocab import dead_pieces

        tokenizer = self.load(path)
        size = self.base.vocab_size
        dead = {piece.id for piece in dead_pieces(path)} - self.dead
        after = tokenizer.encode_batch(self.texts)
        tokens = len(after.ids)
        han = [
            sum(map(len, tokenizer.encode_batch(runs))) - sum(run.count("\n") for run in runs)
            for runs in self.runs
        ]
        changed = sum(
            one != other
            for one, other in zip(self.before_lines, tokenizer.encode_batch(self.lines).tolist(), strict=True)
        )
        longer = sum(len(one) < len(other) for one, other in zip(self.before, after, strict=True))
        return (
            [
                name,
                tokenizer.vocab_size - size,
                tokens,
                round(self.bytes / tokens, 2),
                *han,
                len([id for id in dead if id >= size]),
                len([id for id in dead if id < size]),
            ],
            [name, len(self.lines), changed, len(self.texts), longer],
        )


def quality(everything: Path, place: Path, args: Any, recorder: Recorder) -> None:
    """Tokens, dead pieces and drift on the sources held out."""
    by_size = sorted(sources(args.folder), key=lambda path: (path.stat().st_size, path.name))
    held = by_size[2::3]
    trained = write_lines(documents([path for path in by_size if path not in held]), place / "trained.txt")
    made = vocabularies(trained, place, args)
    judge = Judge(args.base, list(documents(held)))
    judged = [judge.judge(name, path) for name, path in [("base", args.base), *made.items()]]
    how = {"rounds": 1, "text_mb": round(trained.stat().st_size / 1e6)}
    title = (
        f"Trained on {len(by_size) - len(held)} sources, judged on {len(held)} others "
        f"({judge.bytes / 1e6:.0f} MB): " + ", ".join(path.name.split(".")[0] for path in held)
    )
    columns = ["vocabulary", "new pieces", "tokens", "bytes per token", "of Han runs", "with punctuation"]
    recorder.table(
        "quality", title, [*columns, "dead new", "dead old"], [row for row, _ in judged], about=title, **how
    )
    recorder.table(
        "drift",
        "Beside the base, on the same text",
        ["vocabulary", "lines without Han", "with other ids", "documents", "longer"],
        [row for _, row in judged[1:]],
        **how,
    )


TABLES: dict[str, Callable[[Path, Path, Any, Recorder], None]] = {
    "speed": speed,
    "growth": growth,
    "quality": quality,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("folder", type=Path, help="folder of sources of text")
    made.add_argument("--base", type=Path, required=True, help="folder of the base, or its tokenizer.model")
    made.add_argument("--tables", default="speed,quality", help=f"of {', '.join(TABLES)}")
    made.add_argument("--pieces", type=int, default=PIECES, help="new pieces")
    made.add_argument("--threads", default="1,2", help="numbers of threads to compare")
    made.add_argument("--growth", default="1000,2000", help="MB of text for that table")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--label", default="mixed", help="what the text is, for the record")
    made.add_argument("--record", type=Path, help="append the tables to this file of records")
    made.add_argument("--sample-bytes", type=int, default=2_000_000_000, help=argparse.SUPPRESS)
    made.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    return made


def main() -> None:
    args = parser().parse_args()
    if args.child:
        args.threads = int(args.threads)
        child(args)
        return
    args.thread_counts = [int(count) for count in args.threads.split(",")]
    args.growth = [int(size) for size in args.growth.split(",")]
    recorder = Recorder("extend", args.label, args.record, PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        text = write_lines(documents(sources(args.folder)), place / "text.txt")
        for table in args.tables.split(","):
            TABLES[table](text, place, args, recorder)


if __name__ == "__main__":
    main()
