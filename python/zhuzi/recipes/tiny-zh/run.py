"""Teach a small real LLaMA Chinese, with and without new pieces, and measure what the pieces were worth.

    python recipes/tiny-zh/run.py zh/*.jsonl --held-out other.jsonl --base MODEL_DIR --out tiny-zh-run

README.md, beside this file, says what is compared and how to read it. The same command resumes a run that was
stopped. Each step is a call of zhuzi's public interface; what it writes is whole or absent, so a step is
done if its output is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results

import zhuzi
from zhuzi.corpus import read_texts
from zhuzi.errors import message
from zhuzi.eval import compare_bits

# What is trained beside embedding and head: LoRA on every matrix of the layers, its rank a quarter of the
# tiny base's width. No recipe trains the matrices of the layers themselves.
LORA: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
CONTEXT = 256  # tokens in a sequence
SEQUENCES_A_STEP = 16
SIZES = (500, 1000, 2000, 4000, 8000, 16000)  # numbers of new pieces that are tried
PART_CHARACTERS = 8_000  # longer documents are drawn in parts: no novel is a tenth of the text

# Of each held-out text: bytes at most in all, and of a document. The curves are measured on less.
MEASURED, CURVES = (90_000, 1_500), (20_000, 1_000)
EVALUATIONS = 6  # of a training, for its curves


@dataclass(frozen=True)
class Arm:
    """One of the trainings that are compared."""

    name: str
    extended: bool
    text: str
    """`same`: the text of all arms. `more`: as much as the first arm's compute allows."""


ARMS = (
    Arm("plain", extended=False, text="same"),
    Arm("extended-equal-bytes", extended=True, text="same"),
    Arm("extended-equal-compute", extended=True, text="more"),
)


def main() -> None:
    """Prepare texts, base and size once, then train and measure every arm with every seed."""
    options = read_options()
    out: Path = options.out
    claim(out, options)
    write_texts(out / "texts", options)
    base = make_base(out, options)
    choose_size(out, base, options)
    measure(base, out / "base-bits.json", out / "texts")
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in ARMS:
            file = out / f"seed-{seed}" / f"{arm.name}.json"
            if not file.exists():
                say(f"seed {seed}: {arm.name}")
                write_json(file, train_arm(arm, seed, base, options))
                write_results(out)
    write_results(out)


def write_results(out: Path) -> None:
    """`tiny-zh.json`, with all figures there are, and what is drawn from them."""
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "settings": read_json(out / "settings.json"),
        **read_json(out / "sizes.json"),
        "base": bits_of(out / "base-bits.json"),
        "runs": [
            read_json(file)
            for seed in sorted(out.glob("seed-*"))
            for arm in ARMS
            if (file := seed / f"{arm.name}.json").exists()
        ],
    }
    write_json(out / "tiny-zh.json", facts)
    if facts["runs"]:
        say(f"wrote {results.write(out, facts)}")


# --- texts -------------------------------------------------------------------------------------------------


def write_texts(folder: Path, options: argparse.Namespace) -> None:
    """`pool.jsonl` to train on and three held-out texts: the same sources, other sources, English.

    A document is held out by a hash of its text, so that equal documents fall on the same side.
    """
    if (folder / "pool.jsonl").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # of a command that was stopped here
    folder.mkdir()
    say("texts: reading")
    held: list[str] = []
    pool: list[str] = []
    for text in read_texts(options.inputs):
        number = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
        (held if number % max(1, options.hold_out) == 0 else pool).append(text)
    if not held or not pool:
        raise SystemExit(
            f"--hold-out {options.hold_out} leaves {len(pool)} documents to train on and {len(held)} to "
            "measure; give more documents, or another number"
        )
    random.Random(0).shuffle(held)
    other = list(read_texts(options.held_out)) if options.held_out else []
    random.Random(0).shuffle(other)
    english = list(read_texts(options.english or [demo_english()]))
    english = english if options.base else english[9::10]  # the others trained the base
    (folder / "curves").mkdir()
    for name, texts in (("same-sources", held), ("other-sources", other), ("english", english)):
        if texts:
            write_jsonl(folder / "curves" / f"{name}.jsonl", cut(texts, *CURVES))
            write_jsonl(folder / f"{name}.jsonl", cut(texts, *MEASURED))
    write_jsonl(folder / "pool.jsonl", (part for text in pool for part in parts(text)))


def parts(text: str) -> Iterator[str]:
    """A long document in parts of about equal use to the draw."""
    for begin in range(0, len(text), PART_CHARACTERS):
        yield text[begin : begin + PART_CHARACTERS]


def cut(texts: Iterable[str], in_all: int, of_each: int) -> Iterator[str]:
    """The beginnings of documents, up to so many bytes."""
    for text in texts:
        taken = text.encode()[: min(of_each, in_all)].decode("utf-8", "ignore")
        in_all -= len(taken.encode())
        if taken.strip():
            yield taken
        if in_all < 4:
            return


def draw(pool: Path, out: Path, seed: int, most: float) -> None:
    """Write the first `most` bytes of the pool in the seed's order, or all of it."""
    texts = list(read_texts([pool]))
    random.Random(seed).shuffle(texts)
    taken, size = [], 0
    for text in texts:
        if size >= most:
            break
        taken.append(text)
        size += len(text.encode())
    write_jsonl(out, taken)


# --- base and vocabulary -----------------------------------------------------------------------------------


def make_base(out: Path, options: argparse.Namespace) -> Path:
    """The model that all arms start from: the given one, or a small one trained on English."""
    if options.base is not None:
        given: Path = options.base
        if not (given / "config.json").exists():
            raise SystemExit(f"{given}: no model folder (no config.json); give one with its tokenizer.model")
        return given
    made = out / "base"
    if not made.exists():
        from zhuzi.demo.base import make_base as train_small
        from zhuzi.demo.sample import built_in_tokenizer

        say(f"base: {options.base_steps} steps of English from scratch")
        english = list(read_texts(options.english or [demo_english()]))
        texts = [text for i, text in enumerate(english) if i % 10 != 9]
        tokenizer = zhuzi.Tokenizer.from_sentencepiece(built_in_tokenizer())
        train_small(tokenizer, texts, made, steps=options.base_steps, learning_rate=3e-3, seed=42)
    return made


def choose_size(out: Path, base: Path, options: argparse.Namespace) -> None:
    """How many pieces: the most of `SIZES` with which a byte of Chinese costs at most 5 % above the least.

    More pieces make fewer tokens, and each token dearer, because the head is multiplied for each. In a 7B the
    head of 50,000 rows is 4 % of a token's operations; in a model of 260,000 weights one of 4,000 is 40 %.
    """
    if (out / "sizes.json").exists():
        return
    text = out / "texts" / "size.jsonl"
    draw(out / "texts" / "pool.jsonl", text, 0, options.bytes)
    held = list(read_texts([out / "texts" / "same-sources.jsonl"]))
    size = sum(len(document.encode()) for document in held)
    tried = []
    for pieces in sorted({0, *SIZES, options.new_pieces or 0}):
        try:
            folder = vocabulary(base, text, out / "sizes" / f"{pieces}", pieces) if pieces else base
        except zhuzi.VocabSizeError:  # more than the text has
            if pieces == options.new_pieces:
                raise
            break
        tokenizer = zhuzi.Tokenizer.from_dir(folder)
        tokens = sum(len(tokenizer.encode(document)) for document in held)
        each = operations(base, tokenizer.vocab_size)
        tried.append(
            {
                "new_pieces": pieces,
                "bytes_per_token": size / tokens,
                "operations_per_token": each,
                "operations_per_byte": each * tokens / size,
            }
        )
    if len(tried) == 1:
        raise SystemExit(f"{text}: too little text for {SIZES[0]} new pieces; give more input or --bytes")
    least = min(it["operations_per_byte"] for it in tried[1:])
    near = [it["new_pieces"] for it in tried[1:] if it["operations_per_byte"] <= 1.05 * least]
    write_json(out / "sizes.json", {"sizes": tried, "new_pieces": options.new_pieces or max(near)})


def vocabulary(base: Path, text: Path, out: Path, pieces: int) -> Path:
    """The base's vocabulary and so many pieces learned from the text."""
    if not out.exists():
        out.parent.mkdir(exist_ok=True)
        zhuzi.extend_vocab([text], base, out, new_pieces=pieces, characters="none", min_count=1)
    return out


def operations(base: Path, rows: int) -> int:
    """Operations of forward and backward for one token, as `zhuzi.train` counts them for the MFU.

    Of each matrix 2 for the product, 2 for the gradient of its input and, if it trains, 2 for its own;
    attention 12 x layers x width x length (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    config, rank = read_json(base / "config.json"), int(LORA["rank"])
    names = ("hidden_size", "intermediate_size", "num_hidden_layers")
    width, inner, layers = (int(config[name]) for name in names)
    heads = int(config["num_attention_heads"])
    kv = width * int(config.get("num_key_value_heads") or heads) // heads  # the first LLaMA's names none
    shapes = [(width, width)] * 2 + [(width, kv)] * 2 + [(width, inner)] * 3
    frozen = layers * sum(a * b for a, b in shapes)
    trained = rows * width + layers * sum(rank * (a + b) for a, b in shapes)
    return 4 * frozen + 6 * trained + 12 * layers * width * CONTEXT


# --- one arm -----------------------------------------------------------------------------------------------


def train_arm(arm: Arm, seed: int, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Text, vocabulary, corpus, model, training, merge, bits per byte; returns the figures."""
    folder, texts = options.out / f"seed-{seed}", options.out / "texts"
    folder.mkdir(exist_ok=True)
    text = folder / "same.jsonl"
    if not text.exists():
        draw(texts / "pool.jsonl", text, seed, options.bytes)
    model = tokenizer = base
    if arm.extended:
        tokenizer = vocabulary(base, text, folder / "tokenizer", new_pieces(options.out))
        model = folder / "extended"
        if not model.exists():
            zhuzi.extend_model(base, tokenizer, model, dtype="float16")
    rows = zhuzi.Tokenizer.from_dir(tokenizer).vocab_size
    tokens: float | None = None
    if arm.text == "more":
        tokens = tokens_of_equal_compute(folder, base, rows)
        text = more_text(folder, tokens, seed)
    encoded = zhuzi.encode_corpus([text], tokenizer, folder / f"corpus-{arm.name}")
    recipe = recipe_of(arm, folder, model, seed, options)
    recipe["steps"] = max(1, round((tokens or encoded.tokens) / (SEQUENCES_A_STEP * CONTEXT)))
    recipe["evaluate"]["every"] = max(1, recipe["steps"] // EVALUATIONS)
    write_json(folder / f"{arm.name}.yaml", recipe)  # JSON is YAML
    report = zhuzi.pretrain(folder / f"{arm.name}.yaml")
    shutil.rmtree(report.output / "checkpoints", ignore_errors=True)
    merged = folder / f"{arm.name}-model"
    if not merged.exists():
        zhuzi.merge_adapter(model, report.result, merged)
    return {
        "arm": arm.name,
        "seed": seed,
        "rows": rows,
        "text_bytes": encoded.text_bytes,
        "bytes_seen": encoded.text_bytes * report.tokens / encoded.tokens,
        "tokens": report.tokens,
        "steps": report.steps,
        "operations": report.tokens * operations(base, rows),
        "seconds": report.seconds,
        "trainable": report.trainable,
        "parameters": report.parameters,
        "curve": report.evaluations,
        "bits": measure(merged, folder / f"{arm.name}-bits.json", texts),
    }


def recipe_of(arm: Arm, folder: Path, model: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of a training, but for its steps."""
    curves = [str(path) for path in held_out_texts(options.out / "texts" / "curves")]
    return {
        "task": "pretrain",
        "model": str(model),
        "corpus": str(folder / f"corpus-{arm.name}"),
        "output": str(folder / arm.name),
        "lora": LORA,
        "sequence_length": CONTEXT,
        "batch_size": SEQUENCES_A_STEP,
        "learning_rate": options.learning_rate,
        "seed": seed,
        "log_every": 20,
        "save_every": 100,
        "keep_checkpoints": 1,
        "trackers": [],
        "evaluate": {"share": 0, "texts": curves},
    }


def tokens_of_equal_compute(folder: Path, base: Path, rows: int) -> float:
    """As many as cost what the plain arm cost."""
    return float(read_json(folder / "plain.json")["operations"]) / operations(base, rows)


def more_text(folder: Path, tokens: float, seed: int) -> Path:
    """Text for so many tokens, and some to spare: where no piece was learned from it, it has more tokens."""
    extended = read_json(folder / "extended-equal-bytes.json")
    text = folder / "more.jsonl"
    if not text.exists():
        size = 1.1 * extended["bytes_seen"] * tokens / extended["tokens"]
        draw(folder.parent / "texts" / "pool.jsonl", text, seed, size)
    return text


def measure(model: Path, file: Path, texts: Path) -> dict[str, float]:
    """Bits per byte of a model on each held-out text."""
    if not file.exists():
        compare_bits([model], held_out_texts(texts), context=CONTEXT, out=file)
    return bits_of(file)


def bits_of(file: Path) -> dict[str, float]:
    """What `measure` found, by the names of the texts."""
    return {it["source"]: it["bits_per_byte"] for it in read_json(file)["measured"]}


# --- small things ------------------------------------------------------------------------------------------


def new_pieces(out: Path) -> int:
    """The number that was chosen."""
    return int(read_json(out / "sizes.json")["new_pieces"])


def held_out_texts(folder: Path) -> list[Path]:
    """Those that are there."""
    names = ("same-sources", "other-sources", "english")
    return [path for name in names if (path := folder / f"{name}.jsonl").exists()]


def demo_english() -> Path:
    """The English of the demo: stories and essays that came with the package."""
    return Path(zhuzi.__file__).parent / "demo" / "data" / "en.jsonl"


def write_jsonl(path: Path, texts: Iterable[str]) -> None:
    """Write one `{"text": ...}` per line, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    partial.replace(path)


def claim(out: Path, options: argparse.Namespace) -> None:
    """A folder is for one question: another command for it is refused, except with more seeds."""
    keys = {k: v for k, v in vars(options).items() if k not in ("out", "seeds", "first_seed")}
    asked = json.loads(json.dumps(keys, default=str))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "settings.json"
    if not file.exists() and any(out.iterdir()):
        raise SystemExit(f"{out}: holds something else; choose another --out")
    if not (out / "texts" / "pool.jsonl").exists():  # an earlier command got no further than its own words
        write_json(file, asked)
    held = read_json(file)
    for key in asked:
        if held.get(key) != asked[key]:
            was = f"{key.replace('_', '-')} {held.get(key)}"
            raise SystemExit(f"{out}: was begun with {was}; give that again, or another --out")


def read_json(file: Path) -> dict[str, Any]:
    """The object of a JSON file."""
    return json.loads(file.read_text("utf-8"))  # type: ignore[no-any-return]


def write_json(file: Path, held: dict[str, Any]) -> None:
    """Replace a file as a whole."""
    partial = file.with_name(f".{file.name}")
    partial.write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", "utf-8")
    partial.replace(file)


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)  # noqa: T201


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="Chinese text, as for `zhuzi corpus encode`")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--base", type=Path, help="model folder to start from (default: a small one is trained on English)")
    add("--base-steps", type=int, default=800, help="steps of that small one (default: 800)")
    add("--held-out", type=Path, nargs="+", metavar="INPUT", help="Chinese of other sources, only measured")
    add("--english", type=Path, nargs="+", metavar="INPUT", help="English to measure (default: the demo's)")
    add("--bytes", type=float, default=8e6, help="bytes of text that every arm sees (default: 8e6)")
    add("--new-pieces", type=int, help="(default: as many as make a byte of Chinese cheapest)")
    add("--hold-out", type=int, default=50, metavar="N", help="one document of N is held out (default: 50)")
    add("--learning-rate", type=float, default=1e-2, help="of all arms (default: 1e-2)")
    add("--seeds", type=int, default=3, help="(default: 3)")
    add("--first-seed", type=int, default=0, help="(default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except zhuzi.TrainingInterrupted as stopped:  # a checkpoint was written
        say(str(stopped))
        sys.exit(75)
    except OSError as error:
        sys.exit(f"run.py: {error.filename}: {error.strerror}" if error.filename else f"run.py: {error}")
    except zhuzi.ZhuziError as error:
        sys.exit(f"run.py: {message(error)}")
