"""What a model is asked: call n's prompt is a function of the seed, n and the lists, and of nothing else.

As self-instruct does (Wang et al. 2022, arXiv 2212.10560), and Chinese Alpaca after it (arXiv 2304.08177),
each call shows a few examples drawn at random and asks for 20 new records; each record gets a type of task
and a topic of its own, drawn at random.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from zhuzi.errors import InputError
from zhuzi.instruct.parse import Parsed, ParsedAnswer
from zhuzi.train.alpaca import KEYS, check
from zhuzi.train.sources import open_records

#: Examples that a prompt shows.
EXAMPLES = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What prompts are made from."""

    seeds: list[dict[str, str]]
    """Example records."""
    topics: list[str]
    tasks: list[str]
    """Types of task: a name, or a name and an explanation after `：`."""

    @classmethod
    def read(
        cls, seeds: Path | None = None, topics: Path | None = None, tasks: Path | None = None
    ) -> Material:
        """Read the files given, and the package's own for the others.

        Raises:
            InputError: a file without entries, or with one that cannot be read.
        """
        data = Path(str(files("zhuzi.instruct") / "data"))
        return cls(
            read_seeds(seeds or data / "seeds.jsonl"),
            _read_lines(topics or data / "topics.txt", "topic"),
            _read_lines(tasks or data / "tasks.txt", "type of task"),
        )

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each list, and of the wording of prompts."""
        held = {**vars(self), "wording": _wording()}
        return {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in held.items()}


@dataclass(frozen=True)
class Prompt:
    """What one call asks for."""

    text: str
    assignments: list[tuple[str, str]]
    """Type of task and topic of each record, by its number from 1."""
    seeds: list[int]
    """Numbers of the seeds shown, from 0."""

    def sources(self, answer: ParsedAnswer) -> list[tuple[Parsed, str | None, str | None]]:
        """The records of an answer, each with its type of task and topic, None if they are not certain.

        A record is known by its number, as long as no other has the same; without numbers, by its place in an
        answer that is complete.
        """
        numbers = [record.number for record in answer.records]
        whole = not answer.broken and len(numbers) == len(self.assignments) and set(numbers) == {None}
        found: list[tuple[Parsed, str | None, str | None]] = []
        for at, record in enumerate(answer.records):
            number = at + 1 if whole else record.number
            known = number is not None and 1 <= number <= len(self.assignments)
            if known and (whole or numbers.count(number) == 1):
                assert number is not None
                found.append((record, *self.assignments[number - 1]))
            else:
                found.append((record, None, None))
        return found


def make_prompt(material: Material, *, seed: int, call: int, count: int) -> Prompt:
    """The prompt of call `call` (from 0)."""
    draw = random.Random(f"{seed}/{call}")
    shown = _draw(draw, range(len(material.seeds)), min(EXAMPLES, len(material.seeds)))
    topics = _draw(draw, material.topics, count)
    tasks = [_name(task) for task in _draw(draw, material.tasks, count)]
    lines = [
        json.dumps({"no": at, **{key: material.seeds[i][key] for key in KEYS}}, ensure_ascii=False)
        for at, i in enumerate(shown, 1)
    ]
    explained = dict(_split(task) for task in material.tasks)
    wanted = [
        f"{at}. 【{task}】{explained[task]}（主题：{topic}）"
        for at, (task, topic) in enumerate(zip(tasks, topics, strict=True), 1)
    ]
    parts = {"count": str(count), "examples": "\n".join(lines), "assignments": "\n".join(wanted)}
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _wording())
    return Prompt(text, list(zip(tasks, topics, strict=True)), shown)


@cache
def _wording() -> str:
    return (files("zhuzi.instruct") / "data" / "prompt.txt").read_text("utf-8")


def _draw(draw: random.Random, items: Sequence[T], count: int) -> list[T]:
    """So many items, none a second time before all were drawn.

    By `random()` alone, whose numbers Python promises to keep for a seed.
    """
    drawn: list[T] = []
    pool: list[T] = []
    while len(drawn) < count:
        pool = pool or list(items)
        drawn.append(pool.pop(int(draw.random() * len(pool))))
    return drawn


def _split(task: str) -> tuple[str, str]:
    name, _, explanation = task.replace(":", "：", 1).partition("：")
    return name.strip(), explanation.strip()


def _name(task: str) -> str:
    return _split(task)[0]


def read_seeds(path: Path) -> list[dict[str, str]]:
    """Example records: Alpaca's, or self-instruct's seed tasks (`instances`).

    Raises:
        InputError: a record of another shape, or none at all.
    """
    seeds = []
    for record, place in open_records(path):
        record = check(_first_instance(record), place)
        if record["output"].strip():
            seeds.append({key: (record.get(key) or "").strip() for key in KEYS})
    if not seeds:
        raise InputError(f"{path}: no record with an output; give records of instruction, input and output")
    return seeds


def _first_instance(record: Any) -> Any:
    """A seed task of self-instruct as Alpaca's record."""
    if isinstance(record, Mapping) and "output" not in record:
        instances = record.get("instances")
        if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
            return {"instruction": record.get("instruction"), **instances[0]}
    return record


def _read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, without empty ones, `#` comments and repetitions."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start:,}; convert it to UTF-8 first") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; want a text file with one {what} a line") from None
    lines = [line.strip() for line in text.splitlines()]
    kept = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not kept:
        raise InputError(f"{path}: holds no {what}; write one a line")
    return kept
