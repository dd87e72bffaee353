"""Conversations of every public format: their masks by hand, their damage named, and records as before."""

from __future__ import annotations

import gzip
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from zhuzi import Tokenizer
from zhuzi.errors import InputError
from zhuzi.infer.prompt import PREFACE, format_prompt
from zhuzi.infer.template import ALPACA, Message
from zhuzi.train.conversations import conversations_of
from zhuzi.train.data import IGNORED, Records
from zhuzi.train.origins import of_instructions
from zhuzi.train.sources import Source, SourceReader

QUESTION, ANSWER, AGAIN, MORE = "写一句关于春天的话", "春天来了。", "再写一句 </s>", " 柳树 发芽。\n"
TURNS = [("user", QUESTION), ("assistant", ANSWER), ("user", AGAIN), ("assistant", MORE)]


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_dir(model)


def written(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), "utf-8")
    return path


def targets(tokenizer: Tokenizer, ids: list[int], labels: list[int]) -> list[str]:
    """The texts that are learned, each with its end shown as `</s>`."""
    found: list[list[int]] = []
    before = IGNORED
    for id, label in zip(ids, labels, strict=True):
        assert label in (IGNORED, id)
        if label != IGNORED:
            if before == IGNORED:
                found.append([])
            found[-1].append(label)
        before = label
    return [tokenizer.decode(run) + "</s>" * (run[-1] == tokenizer.eos_id) for run in found]


def as_published(tokenizer: Tokenizer, turns: list[tuple[str, str]], preface: str = PREFACE) -> list[int]:
    """The ids of a conversation, the slow and obvious way."""
    ids: list[int] = []
    for role, text in turns:
        if role == "user":
            prompt = f"{preface}\n\n### Instruction:\n{text}\n\n### Response: "
            ids += [1, *tokenizer.encode(prompt)]
        else:
            ids += [*tokenizer.encode(text), 2]
    return ids


SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS
]  # fmt: skip
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
SAME: dict[str, dict[str, Any]] = {
    "history": {"instruction": AGAIN, "output": MORE, "history": [[QUESTION, ANSWER]]},
    "sharegpt": {"conversations": SHAREGPT},
    "sharegpt with roles": {"id": 3, "conversations": MESSAGES},
    "messages": {"messages": MESSAGES},
    "messages in parts": {
        "messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]
    },
    "a table of several formats": {"messages": MESSAGES, "instruction": None, "output": None},
    "firefly": {
        "conversation": [{"human": QUESTION, "assistant": ANSWER}, {"human": AGAIN, "assistant": MORE}]
    },
    "a question at the end": {"messages": [*MESSAGES, {"role": "user", "content": "然后呢？"}]},
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_gives_the_same_conversation(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    records = Records([written(tmp_path / "a.jsonl", SAME[name])], tokenizer, 1024)
    ids, labels = records[0]
    assert ids == as_published(tokenizer, TURNS)
    assert targets(tokenizer, ids, labels) == [ANSWER + "</s>", MORE + "</s>"]
    assert records.unanswered == (name == "a question at the end")


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": QUESTION, "output": ANSWER, "system": "你是诗人"},
        {"conversations": SHAREGPT[:2], "system": "你是诗人"},
        {"messages": [{"role": "system", "content": "你是诗人"}, *MESSAGES[:2]]},
        {"messages": [{"role": "developer", "content": "你是诗人"}, *MESSAGES[:2]]},
    ],
)
def test_a_system_prompt_is_kept(tokenizer: Tokenizer, tmp_path: Path, record: dict[str, Any]) -> None:
    ids, labels = Records([written(tmp_path / "a.jsonl", record)], tokenizer, 512)[0]
    assert ids == as_published(tokenizer, TURNS[:2], "你是诗人")
    assert targets(tokenizer, ids, labels) == [ANSWER + "</s>"]


def test_fields_by_a_map(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = as_published(tokenizer, TURNS[:2])
    maps: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"instruction": "prompt", "output": "response"}, {"prompt": QUESTION, "response": ANSWER}),
        ({"instruction": "input", "output": "target"}, {"kind": "k", "input": QUESTION, "target": ANSWER}),
        ({"instruction": "a.q", "output": "b.text"}, {"a": {"q": QUESTION}, "b": {"text": ANSWER}}),
        (
            {"messages": "dialog", "role": "who", "content": "says", "user": "甲", "assistant": "乙"},
            {"dialog": [{"who": "甲", "says": QUESTION}, {"who": "乙", "says": ANSWER}]},
        ),
    ]
    for fields, record in maps:
        path = written(tmp_path / "a.jsonl", record)
        records = Records([Source((path,), fields=fields)], tokenizer, 512)
        assert records[0][0] == wanted
        assert records.unread_keys == ({"kind": 1} if "kind" in record else {})
    with pytest.raises(
        InputError, match=r"line 1: has no 'prompt', which `map` gives for instruction; it has"
    ):
        conversations_of({"question": "a"}, "a.jsonl: line 1", {"instruction": "prompt"})


def test_seed_tasks_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    instances = [{"input": "夏天", "output": "诗"}, {"input": "", "output": "诗二"}]
    path = written(tmp_path / "a.jsonl", {"id": "s", "instruction": QUESTION, "instances": instances})
    records = Records([path], tokenizer, 512)
    assert [records[i][0] for i in range(2)] == [
        as_published(tokenizer, [("user", f"{QUESTION}\n夏天"), ("assistant", "诗")]),
        as_published(tokenizer, [("user", QUESTION), ("assistant", "诗二")]),
    ]


def test_conversations_in_packed_files_and_tables(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Parquet, Arrow and compressed lines give what plain lines give."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ("messages", "sharegpt", "history")
    plain = Records([written(tmp_path / f"{name}.jsonl", SAME[name]) for name in names], tokenizer, 1024)
    folder = tmp_path / "packed"
    folder.mkdir()
    for at, name in enumerate(names):
        lines = json.dumps(SAME[name]).encode()
        (folder / f"{at}a.jsonl.gz").write_bytes(gzip.compress(lines))
        table = pyarrow.Table.from_pylist([SAME[name], SAME[name]])
        parquet.write_table(table, folder / f"{at}b.parquet", compression="zstd")
        with pyarrow.ipc.new_stream(folder / f"{at}c.arrow", table.schema) as stream:
            stream.write_table(table)
        with pyarrow.CompressedOutputStream(str(folder / f"{at}d.json.zst"), "zstd") as stream:
            stream.write(b"[" + lines + b"]")
    packed = Records([folder], tokenizer, 1024)
    assert [packed[i] for i in range(len(packed))] == [plain[i] for i in range(3) for _ in range(6)]
    assert packed.unread_keys == {}


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "天"} for role in roles]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (chat("assistant", "user", "assistant"), "message 1 is the first, and an answer: mend or ta"),
        (chat("user", "user", "assistant"), "message 2 has the role user, like the one before"),
        (chat("user", "assistant", "assistant"), "message 3 has the role assistant, like the one before"),
        (chat("user", "assistant", "system"), "message 3 is a system prompt, which must be the first"),
        (chat("system", "system", "user"), "message 2 is a second system prompt"),
        ({**chat("system", "user", "assistant"), "system": "x"}, "a system prompt in 'sys"),
        (chat("user", "tool", "assistant"), "message 2 has the role 'tool': tuning has no place for tools"),
        (chat("甲", "乙"), "message 1 has the role '甲'; want system, user or assistant .other nam"),
        ({"messages": []}, "'messages' holds no messages"),
        ({"messages": "天"}, "'messages' is a text"),
        ({"messages": ["天"]}, "message 1 is a text; want an object with role and content"),
        ({"messages": [{"speaker": "a", "text": "b"}]}, "message 1 has 'speaker', 'text'; want role"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1: 'content' is not a text but null"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1: 'content' is not a text but a number"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "message 1: 'content' holds 'image_url'; only text is read",
        ),
        (
            {"messages": [{"role": "user", "content": "", "tool_calls": [1]}]},
            "message 1 calls a tool",
        ),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "message 1: .* lone surrogate at cha"),
        ({"instruction": "a", "output": "b", "history": ["a"]}, "turn 1 of 'history' is a text"),
        ({"instruction": "a", "output": "b", "history": [["a", 1]]}, "turn 1 of 'history' is not a te"),
        ({"instruction": "a", "instances": []}, "'instances' is empty"),
        ({"instruction": "a", "instances": [3]}, "instance 1 is a number; want an object"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "`map: {instruction: prompt, output: chosen}`"),
        ({"instruction": "a", "context": "c", "response": "b"}, "`map: {output: response, input: context}`"),
    ],
)  # fmt: skip
def test_damage_is_named_or_skipped(
    tokenizer: Tokenizer,
    tmp_path: Path,
    record: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(SAME['messages'])}\n{json.dumps(record)}\n")
    with pytest.raises(InputError, match=rf"a\.jsonl: line 2: .*{message}"):
        Records([path], tokenizer, 1024)
    path.write_text(f"{path.read_text()}{{oops\n")
    records = Records([path], tokenizer, 1024, on_error="skip")
    assert len(records) == 1 and records.skipped == 2
    assert "left out: 1 wrong record, such as " in caplog.text and "a.jsonl: line 2" in caplog.text
    assert "left out: 1 record that cannot be read" in caplog.text


def test_what_teaches_nothing_is_left_out_and_counted(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = {"messages": [{"role": "user", "content": "天"}, {"role": "assistant", "content": " "}]}
    later = {"messages": [*empty["messages"], *MESSAGES[:2]], "tools": [1]}
    asked = {"messages": MESSAGES[:1]}
    aside = {"messages": [*MESSAGES[:1], {**MESSAGES[1], "weight": 0}, *MESSAGES[2:]]}
    records = Records([written(tmp_path / "a.jsonl", empty, later, aside, asked)], tokenizer, 1024)
    assert (len(records), records.empty_outputs, records.unread_keys) == (2, 2, {"tools": 1})
    assert targets(tokenizer, *records[0]) == [ANSWER + "</s>"]  # an empty answer is read, not learned
    assert targets(tokenizer, *records[1]) == [MORE + "</s>"]
    assert "2 records left out: the output is empty" in caplog.text


def test_truncation_keeps_a_target(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "a.jsonl", SAME["messages"])
    ids, labels = Records([path], tokenizer, 1024)[0]
    end = len(ids)
    starts = [i for i in range(1, end) if labels[i] != IGNORED and labels[i - 1] == IGNORED]
    ends = [i for i in range(1, end) if labels[i] == IGNORED and labels[i - 1] != IGNORED]
    assert len(starts) == 2 and len(ends) == 1
    for length in range(2, end):
        if length <= starts[0]:
            with pytest.raises(Exception, match="no record with an output, and room"):
                Records([path], tokenizer, length)
            continue
        cut = Records([path], tokenizer, length)
        some, kept = cut[0]
        assert cut.cut == 1 and any(label != IGNORED for label in kept)
        assert cut.cut_answers == (length <= starts[1])
        # A question whose answer is cut away is cut too.
        assert some == ids[: length if length > starts[1] else min(length, ends[0])]
        assert kept == labels[: len(some)]
    assert "1 later answer of these records cut away whole" in caplog.text


def test_train_on_prompt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", SAME["messages"])
    ids, labels = Records([path], tokenizer, 1024, train_on_prompt=True)[0]
    assert labels == [IGNORED if id == 1 else id for id in ids] and ids.count(1) == 2


def test_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def source(name: str, number: int, weight: float) -> Source:
        records = [{"instruction": f"{name}{i}", "output": "天"} for i in range(number)]
        return Source((written(tmp_path / f"{name}.jsonl", *records),), weight)

    records = Records([source("a", 10, 2.5), source("b", 8, 0.25), source("c", 3, 1)], tokenizer, 512)
    assert records.is_weighted and len(records) == 21
    order = records.weighted(range(21), seed=1)
    counts = [order.count(i) for i in range(21)]
    assert sorted(counts[:10]) == [2] * 5 + [3] * 5 and sorted(counts[10:18]) == [0] * 6 + [1] * 2
    assert counts[18:] == [1] * 3
    assert order == records.weighted(range(21), seed=1) != records.weighted(range(21), seed=2)
    part = records.weighted([0, 1, 19], seed=1)
    assert set(part) <= {0, 1, 19} and part.count(19) == 1
    assert not Records([tmp_path / "a.jsonl"], tokenizer, 512).is_weighted
    one, same, other = (
        of_instructions([SourceReader(it)]).fingerprint
        for it in (Source((tmp_path / "a.jsonl",)), source("a", 10, 1), source("a", 10, 2))
    )
    assert one == same != other


def test_a_prompt_ends_where_the_answer_begins(tokenizer: Tokenizer) -> None:
    messages = [Message(role, text) for role, text in TURNS]
    whole = ALPACA.encode(tokenizer, messages)
    for at in (1, 3):
        prompt = ALPACA.prompt(tokenizer, messages[:at])
        begin = whole.answers[at - 1]
        assert whole.ids[:begin] == prompt
    assert ALPACA.prompt(tokenizer, messages[:1]) == [1, *tokenizer.encode(format_prompt(QUESTION))]


ROLES = {"human": "user", "gpt": "assistant"}
FILES = [
    "llamafactory_alpaca_zh_demo.json",
    "hikariming_chinese_supplement.json",
    "huatuo_liver_cancer.json",
    "belle_zh_seed_tasks.jsonl",
    "medicalgpt_sharegpt_zh_1K.jsonl",
]


@pytest.mark.parametrize("name", FILES)
def test_public_data_have_the_masks_they_should(
    reference: Path, tokenizer: Tokenizer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """200 random records: the ids as published, the targets the answers and their ends."""
    caplog.set_level(logging.ERROR)
    path = reference / "instructions" / name
    text = path.read_text("utf-8-sig")
    raw = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    wanted: list[list[tuple[str, str]]] = []
    for record in raw:
        if "conversations" in record:
            turns = [
                ("user" if t["from"] == "human" else "assistant", t["value"]) for t in record["conversations"]
            ]
            wanted.append(turns[: -1 if turns[-1][0] == "user" else None])
            continue
        for one in record.get("instances", [record]):
            question = record["instruction"] + (f"\n{one['input']}" if one["input"] else "")
            wanted.append([("user", question), ("assistant", one["output"])])
    wanted = [t for t in wanted if any(role == "assistant" and text.strip() for role, text in t)]
    records = Records([path], tokenizer, 1 << 20)
    assert len(records) == len(wanted) and records.cut == records.left_out == records.skipped == 0
    for i in random.Random(0).sample(range(len(records)), min(200, len(records))):
        ids, labels = records[i]
        assert ids == as_published(tokenizer, wanted[i])
        answers = [text for role, text in wanted[i] if role == "assistant" and text.strip()]
        assert targets(tokenizer, ids, labels) == [text + "</s>" for text in answers]
