"""How new rows should start: the initialisers of `zhuzi model extend`, by `zhuzi eval bits`.

    python benches/bench_init.py
    python benches/bench_init.py --corpus FILE --steps 300 --seeds 3

A small LLaMA learns English and a little Chinese, the latter in bytes, as most of LLaMA's was. It has a BPE
vocabulary of its own, so small that a CPU trains it in minutes. It is extended with the pieces of a donor
that is trained on the Chinese text. From each initialiser the published stages follow, with the same batches:
the embedding alone, then LoRA, embedding and head. Bits per byte of held-out Chinese and English are measured
before, between and after. The text is that of the demo unless --corpus is given; a tenth is held out. Figures
are means over seeds (of batches, dropout and the draws of `normal`), with the largest deviation from the mean
of any Chinese figure in the row.

Bias: a model of 4 layers and 128 dimensions, which has seen little; learning rates as in the demo.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from recording import Recorder

PACKAGES = ("torch", "transformers", "peft")
MOMENTS = ("before", "after stage 1", "after stage 2")
LENGTH = 256


def small_tokenizer(texts: Any, pieces: int) -> Any:
    """A LLaMA-like BPE with byte fallback."""
    import sentencepiece

    from zhuzi import Tokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.splitlines()), model_writer=model,
        model_type="bpe", vocab_size=pieces, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
    )  # fmt: skip
    return Tokenizer(model.getvalue())


def make_base(place: Path, args: Any) -> None:
    """The base, tokenizers, the encoded corpus and held-out texts."""
    from zhuzi import encode_corpus, merge_vocab, train_vocab
    from zhuzi.demo import base
    from zhuzi.demo.sample import Sample, write_jsonl

    sample = Sample.read(args.corpus, None, None)
    old = small_tokenizer(sample.en.train, args.old_pieces)
    zh = write_jsonl(place / "zh-train.jsonl", sample.zh.train)
    write_jsonl(place / "zh.jsonl", sample.zh.measured)
    write_jsonl(place / "en.jsonl", sample.en.measured)
    old.save(place / "old")
    train_vocab([zh], place / "donor.model", vocab_size=args.pieces)
    merge_vocab(
        place / "old" / "tokenizer.model", place / "donor.model", place / "tokenizer", add_tokens=["[PAD]"]
    )
    encode_corpus([zh], place / "tokenizer", place / "corpus")
    english = list(sample.en.train)
    room = args.chinese / (1 - args.chinese) * sum(len(text.encode()) for text in english)
    for text in sample.zh.train:
        if room <= 0:
            break
        english.append(text)
        room -= len(text.encode())
    losses, _ = base.make_base(
        old, english, place / "base", steps=args.base_steps, learning_rate=3e-3, seed=0
    )
    sys.stderr.write(f"base: loss {losses[-1][1]:.3f} after {args.base_steps:,} steps\n")


def measure(place: Path, init: Any, seed: int, args: Any) -> list[tuple[float, float]]:
    """(Chinese, English) bits per byte at each moment."""
    from zhuzi import extend_model, pretrain
    from zhuzi.eval import compare_bits
    from zhuzi.train.recipe import PretrainRecipe

    here = place / f"{init}-{seed}"
    here.mkdir()
    extend_model(place / "base", place / "tokenizer", here / "extended", init=init, seed=seed)
    common = {
        "task": "pretrain", "corpus": place / "corpus", "sequence_length": LENGTH, "batch_size": 4,
        "steps": args.steps, "seed": seed, "weight_decay": 0.01, "save_every": 10**6, "trackers": [],
    }  # fmt: skip
    first = pretrain(
        PretrainRecipe.model_validate({
            **common, "model": str(here / "extended"), "output": here / "stage1", "learning_rate": 5e-3,
            "modules_to_save": ["embed_tokens"],
        }),
        progress=False,
    ).result  # fmt: skip
    second = pretrain(
        PretrainRecipe.model_validate({
            **common, "model": str(first), "output": here / "stage2", "learning_rate": 3e-3,
            "modules_to_save": ["embed_tokens", "lm_head"],
            "lora": {"rank": 8, "alpha": 32, "dropout": 0.05,
                     "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        }),
        progress=False,
    ).result  # fmt: skip
    texts = [place / "zh.jsonl", place / "en.jsonl"]
    made = compare_bits([here / "extended", first, second], texts, context=LENGTH, batch=8)
    found = [(zh.per_byte, en.per_byte) for zh, en in made.measured]
    figures = ", ".join(f"{zh:.3f} {en:.3f}" for zh, en in found)
    sys.stderr.write(f"{init}, seed {seed}: {figures}\n")
    return found


def compare(place: Path, args: Any) -> list[list[Any]]:
    """One row for each initialiser: Chinese at each moment, English at each moment, the spread."""
    from zhuzi.model.initial import INITS

    make_base(place, args)
    rows = []
    for init in INITS:
        runs = [measure(place, init, seed, args) for seed in range(args.seeds)]
        means = [
            [statistics.mean(run[at][language] for run in runs) for at in range(len(MOMENTS))]
            for language in (0, 1)
        ]
        spread = max(abs(run[at][0] - means[0][at]) for run in runs for at in range(len(MOMENTS)))
        rows.append([init, *(round(value, 3) for value in means[0] + means[1]), round(spread, 3)])
    return rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--corpus", type=Path, help="Chinese text; the demo's sample by default")
    made.add_argument("--old-pieces", type=int, default=2000, help="of the base")
    made.add_argument("--pieces", type=int, default=3000, help="of the donor")
    made.add_argument("--base-steps", type=int, default=1000)
    made.add_argument(
        "--chinese", type=float, default=0.1, help="share of the bytes that the base learns from"
    )
    made.add_argument("--steps", type=int, default=150, help="of each stage")
    made.add_argument("--seeds", type=int, default=2)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--label", default="demo", help="what was measured, for the record")
    made.add_argument("--record", type=Path, help="append the table to this file of records")
    return made


def main() -> None:
    import torch

    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    recorder = Recorder("init", args.label, args.record, PACKAGES)
    with tempfile.TemporaryDirectory() as place:
        rows = compare(Path(place), args)
    columns = ["new rows", *(f"zh {m}" for m in MOMENTS), *(f"en {m}" for m in MOMENTS), "zh +-"]
    title = f"bits per byte, 2 stages of {args.steps:,} steps"
    recorder.table("init", title, columns, rows, rounds=args.seeds, threads=args.threads)


@pytest.mark.bench
def test_init() -> None:
    """The tiny form: every initialiser goes through both stages."""
    args = parser().parse_args(["--base-steps", "3", "--steps", "2", "--seeds", "1", "--pieces", "1000"])
    with tempfile.TemporaryDirectory() as place:
        rows = compare(Path(place), args)
    assert [row[0] for row in rows] == ["subword-mean", "mean", "normal", "zero"]
    assert all(0 < value < 20 for row in rows for value in row[1:7])


if __name__ == "__main__":
    main()
