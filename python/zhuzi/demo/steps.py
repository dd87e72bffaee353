"""The steps of the demo: each calls the package's function, as a user would, and keeps its figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from zhuzi.corpus import encode_corpus
from zhuzi.demo import sample, settings
from zhuzi.demo.base import make_base
from zhuzi.demo.measure import (
    ANSWER_TOKENS,
    DRAWN,
    PROMPTS,
    answer_loss,
    asked_of,
    characters_per_token,
    measured,
    median_sentence,
    segmented,
)
from zhuzi.demo.report import write_report
from zhuzi.demo.state import LAST
from zhuzi.demo.words import write_counts
from zhuzi.model import extend_model, merge_adapter
from zhuzi.tokenizer import Tokenizer
from zhuzi.train import pretrain, sft
from zhuzi.train.base import device
from zhuzi.train.recipe import ATTENTION, MLP
from zhuzi.train.run import TrainReport
from zhuzi.vocab import extend_vocab

Say = Callable[[str], object]
Facts = dict[str, Any]

_LORA = {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": list(ATTENTION)}
_WHOLE = ["embed_tokens", "lm_head"]


@dataclass(frozen=True)
class Road:
    """What every step is given."""

    out: Path
    sample: sample.Sample
    seed: int
    say: Say
    command: list[str]
    """What makes this demo again."""

    @property
    def train_file(self) -> Path:
        """The Chinese documents to learn from."""
        return self.out / "data" / "zh-train.jsonl"


@dataclass(frozen=True)
class Step:
    """One step. In the lines of progress, steps with a title are numbered."""

    name: str
    work: Callable[[Road, Facts], str | None]
    """Does the step, adds its figures, and may return a line with the outcome."""
    title: str = ""
    makes: tuple[str, ...] = ()
    """What it writes and cannot resume after a kill, unlike training runs and the corpus."""


def extend_vocabulary(road: Road, facts: Facts) -> None:
    """The base's vocabulary, pieces from a word list and the text, and [PAD] if it has no pad token."""
    old, zh, data = road.sample.tokenizer, road.sample.zh, road.out / "data"
    data.mkdir(exist_ok=True)
    sample.write_jsonl(road.train_file, zh.train)
    sample.write_jsonl(data / "zh-held-out.jsonl", zh.held_out)
    learnt_from = write_counts(zh.train, data / "counts.tsv")
    old.save(road.out / "base-tokenizer")
    pad = ["[PAD]"] if old.pad_id is None else []
    made = extend_vocab(
        [],
        road.out / "base-tokenizer",
        road.out / "tokenizer",
        counts=data / "counts.tsv",
        new_pieces=settings.NEW_IDS - len(pad),
        characters="none",
        add_tokens=pad,
    )
    new = Tokenizer.from_dir(road.out / "tokenizer")
    facts["vocabulary"] = {
        "base_size": old.vocab_size,
        "appended": made.new_pieces,
        "vocab_size": new.vocab_size,
        "fingerprint": new.fingerprint,
        "learnt_from": learnt_from,
        "example": segmented(old, new, sample.EXAMPLE),
        "median": segmented(old, new, median_sentence(old, new, zh.held_out)),
        "characters_a_token_before": characters_per_token(old, zh.held_out),
        "characters_a_token_after": characters_per_token(new, zh.held_out),
    }


def encode(road: Road, facts: Facts) -> None:
    """The Chinese documents as shards."""
    zh, en = road.sample.zh, road.sample.en
    encoded = encode_corpus([road.train_file], road.out / "tokenizer", road.out / "corpus")
    facts["corpus"] = {
        "source": zh.name,
        "held_out_documents": len(zh.held_out),
        "measured_bytes": {s: sum(len(t.encode()) for t in d.measured) for s, d in (("zh", zh), ("en", en))},
        "documents": encoded.documents,
        "characters": encoded.characters,
        "text_bytes": encoded.text_bytes,
        "tokens": encoded.tokens,
    }


def train_base(road: Road, facts: Facts) -> None:
    """A small model that has learnt some English."""
    facts |= {"device": str(device()), "threads": torch.get_num_threads()}
    losses, seconds = make_base(
        road.sample.tokenizer, road.sample.en.train, road.out / "base", seed=road.seed, **settings.BASE
    )
    facts["base"] = {**settings.BASE, "losses": [list(pair) for pair in losses], "seconds": seconds}


def extend(road: Road, facts: Facts) -> None:
    """The base with rows for the new pieces."""
    grown = extend_model(road.out / "base", road.out / "tokenizer", road.out / "extended")
    facts["extended"] = {"old_rows": grown.old_rows, "new_rows": grown.new_rows, "dtype": grown.dtype}


def train_stage1(road: Road, facts: Facts) -> None:
    """The embedding alone."""
    _train(
        *(road, facts, "stage1", pretrain),
        task="pretrain",
        model=str(road.out / "extended"),
        corpus=str(road.out / "corpus"),
        modules_to_save=["embed_tokens"],
        base_bits=16,
    )


def train_stage2(road: Road, facts: Facts) -> None:
    """LoRA, embedding and head over 8 bits."""
    _train(
        *(road, facts, "stage2", pretrain),
        task="pretrain",
        model=str(road.out / "stage1" / "model"),
        corpus=str(road.out / "corpus"),
        modules_to_save=_WHOLE,
        lora=_LORA,
        base_bits=8,
    )


def tune(road: Road, facts: Facts) -> None:
    """The merged model on instructions."""
    file = sample.write_records(road.out / "data" / "instructions-train.json", road.sample.records)
    _train(
        *(road, facts, "sft", sft),
        task="sft",
        model=str(road.out / "chinese-llama"),
        instructions=[str(file)],
        modules_to_save=_WHOLE,
        lora={**_LORA, "targets": [*ATTENTION, *MLP]},
        base_bits=8,
    )


def _train(road: Road, facts: Facts, name: str, run: Callable[[Path], TrainReport], **more: Any) -> None:
    recipe = {
        "output": str(road.out / name),
        "sequence_length": settings.SEQUENCE_LENGTH,
        "batch_size": 4,
        "seed": road.seed,
        "log_every": 1,
        "keep_checkpoints": 1,
        "verify_frozen": True,
        **settings.STAGES[name],
        **more,
    }
    path = road.out / "recipes" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), "utf-8")
    report = run(path)
    # A finished run does not need its checkpoints, which are more than half of the demo's bytes.
    shutil.rmtree(report.output / "checkpoints", ignore_errors=True)
    facts.setdefault("stages", {})[name] = {
        "recipe": recipe,
        "losses": [list(pair) for pair in report.losses],
        "trainable": report.trainable,
        "parameters": report.parameters,
        "share": report.share,
        "frozen_checked": report.frozen_checked,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "left_out": report.left_out,
    }


def merge(road: Road, facts: Facts, *, name: str, base: str, adapter: str, made: str) -> None:
    """An adapter merged into its base."""
    merged = merge_adapter(road.out / base, road.out / adapter, road.out / made)
    facts.setdefault("merges", {})[name] = {
        "difference": merged.difference,
        "difference_stored": merged.difference_stored,
    }


def measure(road: Road, facts: Facts, *, name: str, model: str, asks: bool = False) -> str:
    """A model on held-out text, and samples of what it writes."""
    asked = asked_of(road.sample.held_records) if asks else []
    found = measured(road.out / model, {"zh": road.sample.zh, "en": road.sample.en}, asked, seed=road.seed)
    facts.setdefault("measured", []).append({"name": name, **found})
    bits = found["bits_per_byte"].items()
    return f"{name}: " + ", ".join(f"{language} {value:.3f} bits per byte" for language, value in bits)


def measure_answers(road: Road, facts: Facts) -> None:
    """What tuning did to the answers to held-out instructions."""
    file = sample.write_records(road.out / "data" / "instructions-held-out.json", road.sample.held_records)
    facts["instructions"] = {
        "source": road.sample.records_name,
        "records": len(road.sample.records),
        "held_out": len(road.sample.held_records),
        "loss_before": answer_loss(road.out / "chinese-llama", file),
        "loss_after": answer_loss(road.out / "chinese-alpaca", file),
    }


def report(road: Road, facts: Facts) -> None:
    """The report page."""
    facts |= {"prompts": PROMPTS, "command": road.command}
    facts["drawn"] = asdict(replace(DRAWN, max_new_tokens=ANSWER_TOKENS))
    facts["asked"] = asked_of(road.sample.held_records)
    write_report(facts, road.out / "report.html")


_FIRST_MERGE = partial(
    merge, name="stage 2", base="stage1/model", adapter="stage2/adapter", made="chinese-llama"
)
_SECOND_MERGE = partial(
    merge, name="tuning", base="chinese-llama", adapter="sft/adapter", made="chinese-alpaca"
)

#: The road. Titles are filled in by `str.format` in `zhuzi.demo.road`.
STEPS = (
    Step(
        "vocabulary",
        extend_vocabulary,
        "vocabulary: learn {new_ids:,} ids more from a word list and {documents:,} Chinese documents",
        makes=("base-tokenizer", "tokenizer"),
    ),
    Step("corpus", encode, "corpus: encode it into shards"),
    Step(
        "base model",
        train_base,
        "base model: {base[steps]} steps of English from scratch",
        makes=("base",),
    ),
    Step("base model measured", partial(measure, name="base model", model="base")),
    Step("extended", extend, "model: extend it to the new vocabulary", makes=("extended",)),
    Step("extended measured", partial(measure, name="extended", model="extended")),
    Step(
        "stage 1",
        train_stage1,
        "pre-training, stage 1: the embedding alone, {stages[stage1][steps]} steps",
    ),
    Step("stage 1 measured", partial(measure, name="stage 1", model="stage1/model")),
    Step(
        "stage 2",
        train_stage2,
        "pre-training, stage 2: LoRA, embedding, head over 8 bits, {stages[stage2][steps]} steps",
    ),
    Step("stage 2 merged", _FIRST_MERGE, makes=("chinese-llama",)),
    Step(
        "stage 2 measured",
        partial(measure, name="stage 2, merged", model="chinese-llama", asks=True),
    ),
    Step("tuning", tune, "tuning on {records:,} instructions, {stages[sft][steps]} steps"),
    Step("tuning merged", _SECOND_MERGE, makes=("chinese-alpaca",)),
    Step(
        "tuning measured",
        partial(measure, name="tuned, merged", model="chinese-alpaca", asks=True),
    ),
    Step("answers measured", measure_answers),
    Step(LAST, report, "report"),
)
