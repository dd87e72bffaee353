"""Blocks and records: ids and labels by hand, and bad files named."""

from __future__ import annotations

import gzip
import json
import logging
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_corpus

from zhuzi import Tokenizer
from zhuzi.corpus import Corpus
from zhuzi.errors import InputError, TrainingError
from zhuzi.infer.prompt import format_prompt
from zhuzi.train.data import Blocks, PadRecords, Records, checked, collate_blocks, open_records


def read(path: Path) -> Iterator[dict[str, Any]]:
    return checked(open_records(path))


def test_prompt_to_the_byte() -> None:
    assert format_prompt("{a}", "b") == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{a}\nb\n\n### Response: "
    )


def test_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_corpus(tmp_path, [[[1, 2, 3], [4, 5]], [[6, 7, 8]]], fingerprint="f", vocab_size=9)
    caplog.set_level(logging.INFO)
    blocks = Blocks(Corpus(tmp_path), 3, rows=9)
    assert [block.tolist() for block in (blocks[0], blocks[1])] == [[1, 2, 3], [4, 5, 6]]
    assert len(blocks) == 2 and "the last 2 tokens are dropped" in caplog.text
    batch = collate_blocks([blocks[0], blocks[1]])
    assert batch["labels"].tolist() == batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(TrainingError, match="8 tokens do not fill one block of 9"):
        Blocks(Corpus(tmp_path), 9, rows=9)
    with pytest.raises(InputError, match="outside the model's 6 rows"):
        Blocks(Corpus(tmp_path), 3, rows=6)[1]


def test_ids_and_labels_by_hand(model: Path, instructions: Path) -> None:
    tokenizer = Tokenizer.from_dir(model)
    records = Records([instructions], tokenizer, 512)
    ids, labels = records[1]
    prompt = [1, *tokenizer.encode(format_prompt("Say {it}.", "bread"))]
    output = tokenizer.encode("bread")
    assert ids == [*prompt, *output, 2]
    assert labels == [-100] * len(prompt) + [*output, 2]
    assert len(records) == 4 and records.left_out == 0

    batch = PadRecords(tokenizer)([records[0], records[1]])
    longest, short = len(ids), len(records[0][0])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, longest)
    assert batch["input_ids"][0, short:].tolist() == [409] * (longest - short)
    assert batch["labels"][0, short:].tolist() == [-100] * (longest - short)
    assert batch["attention_mask"].sum(1).tolist() == [short, longest]


def test_truncation(model: Path, instructions: Path) -> None:
    tokenizer = Tokenizer.from_dir(model)
    whole = Records([instructions], tokenizer, 512)
    prompts = sorted(labels.count(-100) for _, labels in (whole[i] for i in range(4)))
    longest = prompts[-1]
    cut = Records([instructions], tokenizer, longest)  # the longest prompt leaves no room
    assert cut.left_out == prompts.count(longest) and len(cut) == 4 - cut.left_out
    assert max(len(ids) for ids, _ in cut) <= longest
    with pytest.raises(TrainingError, match="no record with an output, and room"):
        Records([instructions], tokenizer, prompts[0])


def test_pad_is_eos_where_there_is_none(old_tokenizer: Path) -> None:
    batch = PadRecords(Tokenizer.from_dir(old_tokenizer))([([1, 5], [-100, 5]), ([1, 5, 2], [-100, 5, 2])])
    assert batch["input_ids"].tolist() == [[1, 5, 2], [1, 5, 2]]
    assert batch["labels"].tolist() == [[-100, 5, -100], [-100, 5, 2]]


GOOD = json.dumps({"instruction": "a", "output": "b"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}\n{{oops\n", "line 2 .*no JSON object"),
        (f'{GOOD}\n\n{{"instruction": "a"}}\n', "line 3: has no 'output'"),
        (f'[{GOOD}, {{"output": "b"}}]', "record 2: has no 'instruction'"),
        (f"[{GOOD}, 3]", "record 2: a number; want an object"),
        ('[{"instruction": 1, "output": "b"}]', "record 1: 'instruction' is not a text"),
        ("[", "the array is not closed"),
        ('[{"instruction": null, "output": "b"}]', "record 1: 'instruction' is not a text"),
        ('{"instruction": "a", "output": null}', "line 1: 'output' is not a text"),
        ('{"instruction": "a", "output": 0}', "line 1: 'output' is not a text"),
        ('[{"instruction": "a", "input": 0, "output": "b"}]', "record 1: 'input' is not a text"),
        (f'{GOOD}\n{{"instruction": "a\\ud83d", "output": "b"}}', "line 2: .* lone surrogate at character 1"),
        ("[" * 100_000, "the array is not closed"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply|no JSON object|a list; want"),
        (f"{GOOD}\n" + '{"a":' * 100_000, "line 2 .*no JSON object"),
        ("", "contains no records"),
        (" \n\n", "contains no records"),
        ("[]", "contains no records"),
        (json.dumps(json.loads(GOOD), indent=2), "is a record spread over lines"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        list(read(path))
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"history": [["问", "答"]]}, "record 1: 'history' holds earlier turns.*take 'history' out"),
        ({"system": "你是诗人"}, "record 1: 'system' holds a system prompt.*take 'system' out"),
        ({"output": ["a", "b"]}, "'output' is not a text but a list; write it as one string"),
        ({"instruction": True}, "'instruction' is not a text but true or false"),
    ],
)
def test_what_tuning_cannot_use_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"instruction": "a", "output": "b", **record}]))
    with pytest.raises(InputError, match=message):
        list(read(path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": [{"from": "human", "value": "a"}]}, "looks like a ShareGPT conversation"),
        ({"messages": [{"role": "user", "content": "a"}]}, "looks like a chat .messages"),
        (
            {"kind": "k", "input": "a", "target": "b"},
            "firefly's shape.*`map: {instruction: input, output: ",
        ),
        ({"prompt": "a", "response": "b"}, "`map: {instruction: prompt, output: response}` into the recipe"),
        ({"text": "a"}, "looks like plain text.*zhuzi corpus encode"),
        ({"data": [{"instruction": "a", "output": "b"}]}, "are in a list under 'data'; write only that list"),
    ],
)
def test_other_shapes_are_named(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        list(read(path))


def test_packed_files_folders_and_patterns(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = json.loads(GOOD)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(f"{GOOD}\n{GOOD}\n".encode()))
    (folder / "b.json.xz").write_bytes(lzma.compress(f"[{GOOD}]".encode()))
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist([{**record, "history": []}] * 3)
    parquet.write_table(table, folder / "c.parquet")
    (folder / "d.csv").write_text("instruction,output\n")
    assert [len(list(read(folder / name))) for name in ("a.jsonl.gz", "b.json.xz", "c.parquet")] == [
        2, 1, 3,
    ]  # fmt: skip
    assert list(read(folder / "a*")) == [record] * 2
    records = Records([folder, folder / "b.json.xz"], Tokenizer.from_dir(model), 512)
    assert len(records) == 6 and [file.name for file in records.files] == [
        "a.jsonl.gz",
        "b.json.xz",
        "c.parquet",
    ]
    assert "1 .csv" in caplog.text and "read once: 1 file" in caplog.text
    with pytest.raises(InputError, match="plain text holds no records"):
        (tmp_path / "a.txt").write_text(GOOD)
        list(read(tmp_path / "a.txt"))


def test_what_is_left_out_is_counted(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "records.json"
    good = {"instruction": "天", "output": "地"}
    rest = [
        {"output": ""},
        {"output": " \n"},
        {"id": 7, "history": [], "system": ""},
        {"id": 8, "input": "x"},
    ]
    path.write_text(json.dumps([good, *({**good, **record} for record in rest)]))
    records = Records([path], Tokenizer.from_dir(model), 512)
    assert len(records) == 3 and records.empty_outputs == 2 and records.unread_keys == {"id": 2}
    assert "2 records left out: the output is empty" in caplog.text
    assert "keys that tuning does not read, with their records: id (2)" in caplog.text
    whole = max(len(records[i][0]) for i in range(3))
    assert Records([path], Tokenizer.from_dir(model), whole - 1).cut == 1


def test_bad_bytes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff")
    with pytest.raises(InputError, match=r"line 2 .*not UTF-8"):
        list(read(path))
    with pytest.raises(InputError, match="no such file"):
        list(read(tmp_path / "absent.json"))


def test_lines_and_lists_are_the_same(tmp_path: Path) -> None:
    lines, listed = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text(f"{GOOD}\r\n\n{GOOD}")
    listed.write_text(f" [{GOOD},{GOOD}]")
    assert list(read(lines)) == list(read(listed)) == [json.loads(GOOD)] * 2
