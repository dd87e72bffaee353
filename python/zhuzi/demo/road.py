"""The road, step by step: each one the package's own function, as a user would call it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from zhuzi._output import require_free
from zhuzi.chat import Chat, complete
from zhuzi.corpus import encode_corpus
from zhuzi.demo import sample
from zhuzi.demo.base import SEQUENCE_LENGTH, make_base
from zhuzi.demo.report import write_report
from zhuzi.errors import VocabSizeError
from zhuzi.evaluate import bits_per_byte
from zhuzi.model import extend_model, merge_adapter
from zhuzi.model.folder import ModelFolder
from zhuzi.tokenizer import Tokenizer
from zhuzi.train import pretrain, sft
from zhuzi.train.base import device
from zhuzi.train.data import IGNORED, Records
from zhuzi.train.recipe import ATTENTION, MLP
from zhuzi.train.run import TrainReport
from zhuzi.vocab import merge_vocab, train_vocab

#: What the small models are asked to carry on, and to answer.
ENGLISH_START = "The old man walked to the"
CHINESE_START = "春天来了，"
QUESTION = "请介绍一下春天。"

# Learning rates are far above the published ones: a model this small, trained this shortly, needs them.
_BASE = {"steps": 80, "learning_rate": 3e-3}
_STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"steps": 50, "learning_rate": 5e-3, "weight_decay": 0.01},
    "stage2": {"steps": 100, "learning_rate": 3e-3, "weight_decay": 0.01},
    "sft": {"steps": 80, "learning_rate": 1e-3, "warmup": 0.03},
}


@dataclass(frozen=True)
class DemoResult:
    """What `run_demo` made."""

    report: Path
    model: Path
    """The tuned model, for `zhuzi chat`."""
    facts: dict[str, Any]
    """Every figure of the report (also in `demo.json`)."""


def run_demo(
    out: str | Path = "demo-run",
    *,
    corpus: str | Path | None = None,
    instructions: str | Path | None = None,
    base_tokenizer: str | Path | None = None,
    seed: int = 42,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> DemoResult:
    """Walk the whole road on the built-in sample or the user's files and write OUT/report.html.

    Donor vocabulary, merge, corpus, base model, extension, two stages of pre-training, merge, tuning, merge;
    Chinese and English are measured on text held out from all of it, before and after each stage. A few
    minutes on two cores, in fp32 on a CPU. `say` is told what happens, a line a step.

    Raises what the steps raise; see their functions.
    """
    out = Path(out)
    own = [path for path in (corpus, instructions, base_tokenizer) if path]
    require_free(out, overwrite=overwrite, inputs=own)
    zh = sample.chinese(Path(corpus) if corpus else None)
    en = sample.english()
    source, records, held_records = sample.instructions(Path(instructions) if instructions else None)
    old = Tokenizer.from_sentencepiece(base_tokenizer or sample.base_tokenizer())
    if out.exists():
        shutil.rmtree(out)
    (out / "data").mkdir(parents=True)
    (out / "recipes").mkdir()
    started = time.monotonic()
    facts: dict[str, Any] = {"seed": seed, "device": str(device()), "threads": torch.get_num_threads()}
    _write_facts(facts, out)  # so that --overwrite knows the folder, should this run be interrupted

    say(f"1/9  vocabulary: train a donor on {len(zh.train):,} Chinese documents")
    train_file = sample.write_jsonl(out / "data" / "zh-train.jsonl", zh.train)
    sample.write_jsonl(out / "data" / "zh-held-out.jsonl", zh.held_out)
    donor = _train_donor(train_file, out / "donor.model", sum(map(len, zh.train)), say)

    say("2/9  vocabulary: merge it into the base's")
    old.save(out / "base-tokenizer")
    merged = merge_vocab(
        out / "base-tokenizer" / "tokenizer.model",
        donor,
        out / "tokenizer",
        add_tokens=["[PAD]"] if old.pad_id is None else [],
    )
    new = Tokenizer.from_dir(out / "tokenizer")
    facts["vocabulary"] = {
        "base_size": merged.base_size,
        "appended": merged.appended,
        "vocab_size": merged.vocab_size,
        "example": sample.EXAMPLE,
        "tokens_before": [old.id_to_token(i) for i in old.encode(sample.EXAMPLE)],
        "tokens_after": [new.id_to_token(i) for i in new.encode(sample.EXAMPLE)],
        "characters_a_token_before": _characters_a_token(old, zh.held_out),
        "characters_a_token_after": _characters_a_token(new, zh.held_out),
    }

    say("3/9  corpus: encode it into shards")
    encoded = encode_corpus([train_file], new, out / "corpus")
    facts["corpus"] = {
        "source": zh.name,
        "held_out_documents": len(zh.held_out),
        "measured_bytes": {s: sum(len(t.encode()) for t in d.measured) for s, d in (("zh", zh), ("en", en))},
        "documents": encoded.documents,
        "characters": encoded.characters,
        "text_bytes": encoded.text_bytes,
        "tokens": encoded.tokens,
    }

    say(f"4/9  base model: {_BASE['steps']} steps of English from nothing")
    began = time.monotonic()
    base_losses = make_base(old, en.train, out / "base", seed=seed, **_BASE)  # type: ignore[arg-type]
    facts["base"] = {**_BASE, "losses": base_losses, "seconds": time.monotonic() - began}
    facts["measured"] = []

    def measure(name: str, model: Path, *, asks: bool = False) -> None:
        folder = ModelFolder.open(model)
        live = folder.load(torch.float32)
        tokenizer = folder.tokenizer
        bits = {
            language: bits_per_byte(live, tokenizer, split.measured, context=SEQUENCE_LENGTH)
            for language, split in (("zh", zh), ("en", en))
        }
        facts["measured"].append(
            {
                "name": name,
                "bits_per_byte": {language: found.per_byte for language, found in bits.items()},
                "bits_per_character": {language: found.per_character for language, found in bits.items()},
                "english": complete(
                    live, tokenizer, ENGLISH_START, max_new_tokens=24, temperature=0.7, seed=seed
                ),
                "chinese": complete(
                    live, tokenizer, CHINESE_START, max_new_tokens=24, temperature=0.7, seed=seed
                ),
                "answer": "".join(Chat(live, tokenizer).reply(QUESTION, max_new_tokens=48, seed=seed))
                if asks
                else None,
            }
        )
        say(f"     {name}: " + ", ".join(f"{k} {b.per_byte:.3f} bits a byte" for k, b in bits.items()))

    measure("base model", out / "base")

    say("5/9  model: grow it to the new vocabulary")
    grown = extend_model(out / "base", new, out / "extended")
    facts["extended"] = {"old_rows": grown.old_rows, "new_rows": grown.new_rows, "dtype": grown.dtype}
    measure("extended", out / "extended")

    lora = {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": list(ATTENTION)}
    whole = ["embed_tokens", "lm_head"]
    facts["stages"] = {}

    def train(name: str, run: Callable[[Path], TrainReport], **settings: Any) -> TrainReport:
        recipe = {
            "output": str(out / name),
            "sequence_length": SEQUENCE_LENGTH,
            "batch_size": 4,
            "seed": seed,
            "log_every": 1,
            "save_every": 1_000_000,
            "verify_frozen": True,
            **_STAGES[name],
            **settings,
        }
        path = out / "recipes" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), "utf-8")
        report = run(path)
        facts["stages"][name] = {
            "recipe": recipe,
            "losses": report.losses,
            "trainable": report.trainable,
            "parameters": report.parameters,
            "share": report.share,
            "frozen_checked": report.frozen_checked,
            "tokens": report.tokens,
            "seconds": report.seconds,
            "left_out": report.left_out,
        }
        return report

    say(f"6/9  pre-training, stage 1: the embedding alone, {_STAGES['stage1']['steps']} steps")
    stage1 = train(
        "stage1",
        pretrain,
        task="pretrain",
        model=str(out / "extended"),
        corpus=str(out / "corpus"),
        modules_to_save=["embed_tokens"],
        base_bits=16,
    )
    measure("stage 1", stage1.result)

    say(f"7/9  pre-training, stage 2: LoRA, embedding, head over 8 bits, {_STAGES['stage2']['steps']} steps")
    stage2 = train(
        "stage2",
        pretrain,
        task="pretrain",
        model=str(stage1.result),
        corpus=str(out / "corpus"),
        modules_to_save=whole,
        lora=lora,
        base_bits=8,
    )
    first = merge_adapter(stage1.result, stage2.result, out / "chinese-llama")
    measure("stage 2, merged", first.out, asks=True)

    say(f"8/9  tuning on {len(records):,} instructions, {_STAGES['sft']['steps']} steps")
    record_file = sample.write_records(out / "data" / "instructions-train.json", records)
    held_file = sample.write_records(out / "data" / "instructions-held-out.json", held_records)
    tuned = train(
        "sft",
        sft,
        task="sft",
        model=str(first.out),
        instructions=[str(record_file)],
        modules_to_save=whole,
        lora={**lora, "targets": [*ATTENTION, *MLP]},
        base_bits=8,
    )
    second = merge_adapter(first.out, tuned.result, out / "chinese-alpaca")
    measure("tuned, merged", second.out, asks=True)
    facts["instructions"] = {
        "source": source,
        "records": len(records),
        "held_out": len(held_records),
        "loss_before": _answer_loss(first.out, held_file),
        "loss_after": _answer_loss(second.out, held_file),
    }
    facts["merges"] = {
        name: {"difference": made.difference, "difference_stored": made.difference_stored}
        for name, made in (("stage 2", first), ("tuning", second))
    }

    say("9/9  report")
    facts["seconds"] = time.monotonic() - started
    facts["prompts"] = {"english": ENGLISH_START, "chinese": CHINESE_START, "question": QUESTION}
    _write_facts(facts, out)
    report = write_report(facts, out / "report.html")
    return DemoResult(report, second.out, facts)


def _train_donor(text: Path, out: Path, characters: int, say: Callable[[str], object]) -> Path:
    """A donor with a piece for every ten characters, 4,000 at most, or what the text can give."""
    size = min(4000, max(500, characters // 10))
    try:
        return train_vocab([text], out, vocab_size=size).path
    except VocabSizeError as error:
        if error.limit is None:
            raise
        fitting = error.limit if error.limit < size else error.limit * 5 // 4
        say(f"     {error}; taking {fitting:,}")
        return train_vocab([text], out, vocab_size=fitting).path


def _answer_loss(model: Path, file: Path) -> float:
    """Mean loss (nats a token) of a model on the outputs of a file's records, prompts given."""
    folder = ModelFolder.open(model)
    records, live = Records([file], folder.tokenizer, SEQUENCE_LENGTH), folder.load(torch.float32)
    total, tokens = 0.0, 0
    for ids, labels in (records[i] for i in range(len(records))):
        with torch.no_grad():
            loss = live(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        counted = sum(label != IGNORED for label in labels)
        total, tokens = total + loss.item() * counted, tokens + counted
    return total / tokens


def _write_facts(facts: dict[str, Any], out: Path) -> None:
    (out / "demo.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _characters_a_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    return sum(map(len, texts)) / len(tokenizer.encode_batch(texts).ids)
