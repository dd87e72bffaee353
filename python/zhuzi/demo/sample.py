"""What the demo teaches: the sample written for this project, or the user's own files; a tenth held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError
from zhuzi.tokenizer import Tokenizer

#: The example sentence of arXiv 2304.08177: 35 tokens with LLaMA's tokenizer, 16 with the merged one.
EXAMPLE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"

#: Most bytes of text that are measured: a larger held-out part would take longer than the training.
MEASURED_BYTES = 16_000

#: The name of what is not the user's.
BUILT_IN = "built-in sample"

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Documents to learn from, and documents nothing is learned from."""

    name: str
    train: list[str]
    held_out: list[str]

    @property
    def measured(self) -> list[str]:
        """The held-out documents up to `MEASURED_BYTES`, the last one cut."""
        room, taken = MEASURED_BYTES, []
        for text in self.held_out:
            part = text.encode()[:room].decode("utf-8", "ignore")
            room -= len(part.encode())
            taken.append(part)
            if room < 4:
                break
        return [text for text in taken if text]


@dataclass(frozen=True)
class Sample:
    """All that the demo teaches."""

    zh: Split
    en: Split
    """What the base model is made from."""
    records: list[dict[str, str]]
    """Alpaca records to learn from."""
    held_records: list[dict[str, str]]
    records_name: str
    tokenizer: Tokenizer
    """The base's."""

    @classmethod
    def read(
        cls, corpus: Path | None, instructions: Path | None, base_tokenizer: str | Path | None
    ) -> Sample:
        """The user's files, or what is built in; `InputError` for too few or unreadable ones."""
        from zhuzi.train.data import read_records

        zh, en = _documents(corpus, "zh.jsonl"), _documents(None, "en.jsonl")
        tokenizer = Tokenizer.from_sentencepiece(base_tokenizer or _built_in_tokenizer())
        with as_file(files(__package__) / "data" / "instructions.json") as built_in:
            records = list(read_records(instructions or built_in))
        learnt, held = _hold_out(records, instructions or Path("the sample"), "instructions")
        return cls(
            zh=zh,
            en=en,
            records=learnt,
            held_records=held,
            records_name=str(instructions or BUILT_IN),
            tokenizer=tokenizer,
        )

    def checksums(self) -> dict[str, str]:
        """SHA-256 (hex) of what was read, by the option that names it, wherever it lies."""
        return {
            "corpus": _sha256([self.zh.train, self.zh.held_out, self.en.train, self.en.held_out]),
            "instructions": _sha256([self.records, self.held_records]),
            "base_tokenizer": self.tokenizer.fingerprint,
        }


def _built_in_tokenizer() -> bytes:
    """A real 32,000-piece SentencePiece BPE model with byte fallback, which mistral-common carries."""
    return (files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    """Write one `{"text": ...}` a line."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), "utf-8")
    return path


def write_records(path: Path, records: Sequence[dict[str, str]]) -> Path:
    """Write Alpaca records as a JSON list."""
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), "utf-8")
    return path


def _documents(path: Path | None, built_in: str) -> Split:
    with as_file(files(__package__) / "data" / built_in) as sample:
        texts = [text for text in read_texts([path or sample]) if text.strip()]
    return Split(str(path or BUILT_IN), *_hold_out(texts, path or Path(built_in), "documents"))


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _hold_out(items: list[T], where: Path, what: str) -> tuple[list[T], list[T]]:
    """Every tenth item is held out; of fewer than ten, the last."""
    if len(items) < 2:
        raise InputError(
            f"{where}: {len(items)} {what}; the demo needs two, one to learn from and one to measure on"
        )
    held = set(range(9, len(items), 10)) or {len(items) - 1}
    return (
        [item for i, item in enumerate(items) if i not in held],
        [item for i, item in enumerate(items) if i in held],
    )
