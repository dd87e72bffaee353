"""What the demo trains on: the built-in sample or the user's files; a tenth is held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

from zhuzi._show import count
from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError
from zhuzi.tokenizer import Tokenizer

#: The example sentence of arXiv 2304.08177: 35 tokens with LLaMA's tokenizer, 16 with the merged one.
EXAMPLE = "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。"

#: Bytes of text to measure on, at most: more would take longer than the training.
MEASURED_BYTES = 16_000

#: The report's name for what comes with the package.
BUILT_IN = "built-in sample"

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Documents to train on, and held-out documents to measure on."""

    name: str
    train: list[str]
    held_out: list[str]
    notes: list[str]
    """What part of the input was not read or was left out, one line each."""

    @property
    def measured(self) -> list[str]:
        """The held-out documents up to `MEASURED_BYTES`; the last one is cut."""
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
    """All that the demo trains on."""

    zh: Split
    en: Split
    """What the base model is trained on."""
    records: list[dict[str, str]]
    """Alpaca records to train on."""
    held_records: list[dict[str, str]]
    records_name: str
    records_notes: list[str]
    """What part of their input was not read or was left out, one line each."""
    tokenizer: Tokenizer
    """The base's."""

    @classmethod
    def read(
        cls, corpus: Path | None, instructions: Path | None, base_tokenizer: str | Path | None
    ) -> Sample:
        """The user's files or the built-in ones; `InputError` if there are too few, or one cannot be read."""
        zh, en = _documents(corpus, "zh.jsonl"), _documents(None, "en.jsonl")
        tokenizer = Tokenizer.from_sentencepiece(base_tokenizer or built_in_tokenizer())
        records, notes = _records(instructions)
        learnt, held = _hold_out(records, instructions or Path("the sample"), "instruction")
        return cls(
            zh=zh,
            en=en,
            records=learnt,
            held_records=held,
            records_name=str(instructions or BUILT_IN),
            records_notes=notes,
            tokenizer=tokenizer,
        )

    @property
    def notes(self) -> list[str]:
        """What part of the inputs is not used, one line each."""
        return [
            *(f"{self.zh.name}: {note}" for note in self.zh.notes),
            *(f"{self.records_name}: {note}" for note in self.records_notes),
        ]

    def checksums(self) -> dict[str, str]:
        """SHA-256 (hex) of what was read, by the option that names it; paths do not matter."""
        return {
            "corpus": _sha256([self.zh.train, self.zh.held_out, self.en.train, self.en.held_out]),
            "instructions": _sha256([self.records, self.held_records]),
            "base_tokenizer": self.tokenizer.fingerprint,
        }


def built_in_tokenizer() -> bytes:
    """A real 32,000-piece SentencePiece BPE model with byte fallback, from mistral-common."""
    return (files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    """Write one `{"text": ...}` per line."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), "utf-8")
    return path


def write_records(path: Path, records: Sequence[dict[str, str]]) -> Path:
    """Write Alpaca records as a JSON list."""
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), "utf-8")
    return path


def _documents(path: Path | None, built_in: str) -> Split:
    with as_file(files(__package__) / "data" / built_in) as sample:
        reader = read_texts([path or sample])
        read = list(reader)
    texts, notes = [text for text in read if text.strip()], reader.notes()
    if blank := len(read) - len(texts):
        notes.append(f"left out: {count(blank, 'document')} of white space only")
    return Split(str(path or BUILT_IN), *_hold_out(texts, path or Path(built_in), "document"), notes)


def _records(path: Path | None) -> tuple[list[dict[str, str]], list[str]]:
    """The records that teach something, with the keys that tuning reads, and notes on the others."""
    from zhuzi.train.alpaca import KEYS, unread_keys
    from zhuzi.train.data import checked, record_notes
    from zhuzi.train.sources import open_records

    with as_file(files(__package__) / "data" / "instructions.json") as sample:
        reader = open_records(path or sample)
        read = list(checked(reader))
    unread = Counter(key for record in read for key in unread_keys(record))
    full = [record for record in read if record["output"].strip()]
    records = [{key: value for key, value in record.items() if key in KEYS} for record in full]
    return records, [*reader.notes(), *record_notes(len(read) - len(full), unread)]


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _hold_out(items: list[T], where: Path, what: str) -> tuple[list[T], list[T]]:
    """Hold out every tenth item, or the last of fewer than ten."""
    if len(items) < 2:
        raise InputError(
            f"{where}: {count(len(items), what)}; the demo needs two, one to learn from and one to measure on"
        )
    held = set(range(9, len(items), 10)) or {len(items) - 1}
    return (
        [item for i, item in enumerate(items) if i not in held],
        [item for i, item in enumerate(items) if i in held],
    )
