"""What the demo measures on its tokenizers and models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from zhuzi.demo import settings
from zhuzi.demo.sample import Split
from zhuzi.eval import bits_per_byte
from zhuzi.infer.chat import Chat, complete
from zhuzi.infer.sampling import Sampling
from zhuzi.model.folder import ModelFolder
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.data import IGNORED, Records

#: Texts for the models to continue.
PROMPTS = {"english": "The old man walked to the", "chinese": "春天来了，"}

#: Held-out instructions that models are asked.
ASKED = 4
#: How samples and answers are drawn. So small a model finds no word likely: the 40 tokens that `zhuzi chat`
#: draws from are line breaks, digits and the end, and its temperature of 0.2 leaves the end.
DRAWN = Sampling(temperature=1.0, top_p=0.8, top_k=0, repetition_penalty=1.1)
SAMPLE_TOKENS, ANSWER_TOKENS = 24, 60


def asked_of(records: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The records with the shortest outputs, in their order."""
    shortest = sorted(range(len(records)), key=lambda i: (len(records[i]["output"]), i))[:ASKED]
    return [records[i] for i in sorted(shortest)]


def measured(
    path: Path, texts: Mapping[str, Split], asked: Sequence[dict[str, str]], *, seed: int
) -> dict[str, Any]:
    """A model's bits per byte on held-out text and a sample, by language, and its answers to `asked`."""
    folder = ModelFolder.open(path)
    live, tokenizer = folder.load(torch.float32), folder.tokenizer
    bits = {
        language: bits_per_byte(live, tokenizer, split.measured, context=settings.SEQUENCE_LENGTH)
        for language, split in texts.items()
    }
    written = {
        language: complete(
            live,
            tokenizer,
            PROMPTS[language],
            sampling=replace(DRAWN, max_new_tokens=SAMPLE_TOKENS, seed=seed),
        )
        for language in ("english", "chinese")
    }
    chat = Chat(live, tokenizer)
    # Each with a seed of its own: with one seed the first draw of all would fall alike.
    answers = [
        "".join(
            chat.reply(
                record["instruction"],
                input=record.get("input", ""),
                sampling=replace(DRAWN, max_new_tokens=ANSWER_TOKENS, seed=seed + i),
            )
        )
        for i, record in enumerate(asked)
    ]
    return {
        "bits_per_byte": {language: found.per_byte for language, found in bits.items()},
        "bits_per_character": {language: found.per_character for language, found in bits.items()},
        **written,
        "answers": answers,
    }


def answer_loss(model: Path, file: Path) -> float:
    """Mean loss (nats per token) of a model on the outputs of a file's records, given their prompts."""
    folder = ModelFolder.open(model)
    records, live = Records([file], folder.tokenizer, settings.SEQUENCE_LENGTH), folder.load(torch.float32)
    total, tokens = 0.0, 0
    for ids, labels in (records[i] for i in range(len(records))):
        with torch.no_grad():
            loss = live(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        counted = sum(label != IGNORED for label in labels)
        total, tokens = total + loss.item() * counted, tokens + counted
    return total / tokens


def segmented(old: Tokenizer, new: Tokenizer, text: str) -> dict[str, Any]:
    """A text's pieces in the old and in the new vocabulary, and which of these are new."""
    before, after = old.encode(text), new.encode(text)
    return {
        "text": text,
        "before": [old.id_to_token(id) for id in before],
        "after": [new.id_to_token(id) for id in after],
        "kinds": ["new" if id >= old.vocab_size else "" for id in after],
    }


def median_sentence(old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> str:
    """Of the sentences of 15 to 40 characters, the first whose share of tokens saved is the median of all."""
    sentences: list[str] = [s for text in texts for s in re.findall(r"[^。！？!?.\n]+[。！？!?.]?", text)]
    fitting = [s.strip() for s in sentences if 15 <= len(s.strip()) <= 40] or [texts[0].strip()[:40]]
    saved = [len(new.encode(s)) / max(len(old.encode(s)), 1) for s in fitting]
    return fitting[saved.index(median_low(saved))]


def characters_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Mean characters per token over all `texts`."""
    return sum(map(len, texts)) / len(tokenizer.encode_batch(texts).ids)
