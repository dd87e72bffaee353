"""Records in the answer of a model, as far as they can be read.

Models are asked for one JSON object per line. They also write an array, fences around it, prose before it,
numbers in front, names of the keys in Chinese, line breaks inside strings, or stop in the middle: each whole
record is taken, wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Characters of an answer that are read; longer ones are cut there.
MAX_CHARACTERS = 1 << 18

# Braces that begin nothing readable before an answer is given up: each costs a scan.
_MAX_FAILED = 1000

_NAMES = {
    "instruction": ("instruction", "指令", "任务", "问题", "prompt", "question"),
    "input": ("input", "输入", "context"),
    "output": ("output", "输出", "回答", "答案", "response", "answer"),
    "no": ("no", "编号", "序号", "id", "index"),
}
_KEYS = {name: key for key, names in _NAMES.items() for name in names}

# Reasoning models put their thoughts in front; a thought without an end is an answer that was cut.
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)

_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
# What stands around the texts of a record on one line.
_BETWEEN_TEXTS = re.compile(
    r'(\A\{\s*(?:"no"\s*:\s*"?\d+"?\s*,\s*)?"(?:instruction|指令)"\s*:\s*"'
    r'|"\s*,\s*"(?:input|输入|output|输出)"\s*:\s*"|"\s*\}\Z)'
)
_LONGEST_LINE = 20_000
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside strings

# A field of a record that is written out instead of JSON: "3. 指令：...", "**Output:** ...".
_FIELD = re.compile(
    r"^[ \t>#*_-]*(?:(?P<no>\d{1,3})[ \t]*[.、)）:：][ \t]*)?[*_]*"
    r"(?P<name>指令|任务|输入|输出|回答|答案|instruction|input|output|response|answer)"
    r"[*_]*[ \t]*\d*[ \t]*[:：][*_]*[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)

# What stands between such records: rules, and the number of the next one.
_BETWEEN = re.compile(r"(?:\n\s*(?:[-*_=`#]+|(?:#+\s*)?(?:第?\s*\d{1,3}\s*[条.、)）:]?))\s*)+\Z")


@dataclass(frozen=True)
class Parsed:
    """A record as a model wrote it."""

    instruction: str
    input: str
    output: str
    number: int | None
    """The number that the model gave it."""


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer holds."""

    records: list[Parsed]
    broken: int
    """Records without an end, a key or a text."""


def parse_answer(text: str) -> ParsedAnswer:
    """The records of an answer, in order; any text may be given, and none raises."""
    text = _THOUGHT.sub("", text[:MAX_CHARACTERS]).lstrip("\ufeff")
    records: list[Parsed] = []
    broken = 0
    for held in _objects(text):
        record = None if held is None else _record(held)
        if record is None:
            broken += 1
        else:
            records.append(record)
    if not records and not broken:
        return _written_out(text)
    return ParsedAnswer(records, broken)


def _objects(text: str) -> Iterator[dict[str, Any] | None]:
    """The objects in a text that may be records; None for what begins like one and cannot be read."""
    at, failed = text.find("{"), 0
    while at >= 0 and failed < _MAX_FAILED:
        held, end = _object_at(text, at)
        if held is not None:
            yield from _flat(held)
        else:
            failed += 1
            # An object around records that was cut is none itself: its records come next.
            if _begins_record(text, at):
                yield None
        at = text.find("{", end)


def _object_at(text: str, at: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins at a brace, and where it ends."""
    try:
        held, end = _DECODER.raw_decode(text, at)
        return held, end
    except (ValueError, RecursionError):
        pass
    line = text[at : text.find("\n", at) if "\n" in text[at : at + _LONGEST_LINE] else at + _LONGEST_LINE]
    line = line[: line.rfind("}") + 1]
    short = text[at : text.find("}", at) + 1]
    for whole in (line, short):
        for mended in (_TRAILING_COMMA.sub(r"\1", whole), _quotes_escaped(whole)):
            try:
                held = _DECODER.decode(mended)
            except (ValueError, RecursionError):
                continue
            if isinstance(held, dict):
                return held, at + len(whole)
    return None, at + 1


def _quotes_escaped(line: str) -> str:
    """A record on one line whose texts hold quotation marks that are not escaped, mended."""
    parts = _BETWEEN_TEXTS.split(line)
    texts = [re.sub(r'(?<!\\)"', r'\\"', part) for part in parts[::2]]
    return "".join(text + mark for text, mark in zip(texts, [*parts[1::2], ""], strict=True))


def _begins_record(text: str, at: int) -> bool:
    name = re.match(r'\{\s*["“\']?([^"”\'\s:：]{1,20})', text[at : at + 80])
    return name is not None and name[1].lower() in _KEYS


def _flat(held: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object itself, or the objects in a list that it holds (`{"records": [...]}`)."""
    lists = [value for value in held.values() if isinstance(value, list)]
    inner = [item for value in lists for item in value if isinstance(item, dict)]
    if inner and not any(isinstance(value, str) for value in held.values()):
        yield from inner
    elif any(_KEYS.get(str(name).strip().lower()) == "instruction" for name in held):
        yield held


def _record(held: dict[str, Any]) -> Parsed | None:
    """The record of an object; None if a text is missing."""
    values: dict[str, Any] = {}
    for name, value in held.items():
        key = _KEYS.get(str(name).strip().lower())
        if key is not None:
            values.setdefault(key, value)
    texts = {}
    for key in ("instruction", "input", "output"):
        value = values.get(key)
        if value is None and key == "input":
            value = ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # "output": 42
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            return None
        texts[key] = _tidy(value)
    if not texts["instruction"] or not texts["output"]:
        return None
    return Parsed(texts["instruction"], _input(texts["input"]), texts["output"], _number(values.get("no")))


def _number(value: object) -> int | None:
    text = str(value).strip(" .、") if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text) else None


def _tidy(text: str) -> str:
    # JSON can write half of a UTF-16 pair, which no file in UTF-8 can hold.
    return text.replace("\r\n", "\n").encode("utf-8", "replace").decode().strip()


_NO_INPUT = {"无", "无输入", "空", "没有", "none", "null", "n/a", "na", "noinput", "empty", "-", "—", "/"}


def _input(text: str) -> str:
    """An input; empty where a model writes in words that there is none."""
    return "" if text.strip("<>()（）[]【】。. ").lower() in _NO_INPUT else text


def _written_out(text: str) -> ParsedAnswer:
    """Records that are written as fields with names, one after the other."""
    fields = list(_FIELD.finditer(text))
    records: list[Parsed] = []
    broken = 0
    values: dict[str, str] = {}
    number: int | None = None

    def end() -> None:
        nonlocal broken
        if values:
            record = _record({**values, "no": number} if number is not None else values)
            if record is None:
                broken += 1
            else:
                records.append(record)

    for at, found in enumerate(fields):
        key = _KEYS[found["name"].lower()]
        if key == "instruction" or key in values:
            end()
            values, number = {}, None
        if found["no"]:
            number = int(found["no"])
        stop = fields[at + 1].start() if at + 1 < len(fields) else len(text)
        # What stands between records: rules, and the number of the next one.
        value = re.sub(
            r"(?:\n\s*(?:[-*_=`#]+|(?:#+\s*)?(?:第?\s*\d{1,3}\s*[条.、)）:]?))\s*)+\Z",
            "",
            text[found.end() : stop],
        )
        values[key] = value
    end()
    return ParsedAnswer(records, broken)
