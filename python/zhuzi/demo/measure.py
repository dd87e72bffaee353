"""What the demo measures on its tokenizers and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zhuzi.demo import settings
from zhuzi.demo.sample import Split
from zhuzi.eval import bits_per_byte
from zhuzi.infer.chat import Chat, complete
from zhuzi.model.folder import ModelFolder
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.data import IGNORED, Records

#: Texts for the models to continue, and a question to answer.
PROMPTS = {"english": "The old man walked to the", "chinese": "春天来了，", "question": "请介绍一下春天。"}


def measured(path: Path, texts: Mapping[str, Split], *, seed: int, asks: bool) -> dict[str, Any]:
    """A model's bits per byte on held-out text and a sample, by language; with `asks` also its answer."""
    folder = ModelFolder.open(path)
    live, tokenizer = folder.load(torch.float32), folder.tokenizer
    bits = {
        language: bits_per_byte(live, tokenizer, split.measured, context=settings.SEQUENCE_LENGTH)
        for language, split in texts.items()
    }
    written = {
        language: complete(live, tokenizer, PROMPTS[language], max_new_tokens=24, temperature=0.7, seed=seed)
        for language in ("english", "chinese")
    }
    answer = (
        "".join(Chat(live, tokenizer).reply(PROMPTS["question"], max_new_tokens=48, seed=seed))
        if asks
        else None
    )
    return {
        "bits_per_byte": {language: found.per_byte for language, found in bits.items()},
        "bits_per_character": {language: found.per_character for language, found in bits.items()},
        **written,
        "answer": answer,
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


def characters_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Mean characters per token over all `texts`."""
    return sum(map(len, texts)) / len(tokenizer.encode_batch(texts).ids)
