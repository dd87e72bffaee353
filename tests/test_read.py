"""Texts and records out of files, as training a vocabulary and tuning read them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus_tools import run_measured
from zhuzi.corpus import read_records, read_texts
from zhuzi.errors import InputError

TEXTS = ["春天来了。", "柳树发芽，\n河水解冻。", "emoji 🌸 与 𠮷"]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda data: pytest.importorskip("zstandard").ZstdCompressor().compress(data),
    "ZSTD": lambda data: pytest.importorskip("zstandard").ZstdCompressor().compress(data),
}


def as_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()


def as_array(texts: list[str]) -> bytes:
    return json.dumps([{"text": t} for t in texts], indent=2).encode()


@pytest.mark.parametrize("make", [as_lines, as_array])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSON"])
def test_lines_or_an_array_by_the_first_character(
    name: str, make: Callable[[list[str]], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes("\ufeff".encode() + b" \n" * (make is as_array) + make(TEXTS))
    reader = read_texts(path)
    assert reader.files == ((str(path), path.stat().st_size),) and reader.documents == 0
    assert list(reader) == TEXTS
    assert (reader.documents, reader.characters) == (3, sum(map(len, TEXTS)))
    assert reader.bytes_read == reader.total_bytes == path.stat().st_size
    for ending, pack in PACKERS.items():
        packed = tmp_path / f"{name}.{ending}"
        packed.write_bytes(pack(make(TEXTS)))
        assert list(read_texts([packed])) == TEXTS, ending
        assert [record for record, _ in read_records([packed])] == [{"text": t} for t in TEXTS]


def test_records_and_their_places(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    records: list[Any] = [
        {"n": 1, "messages": [{"role": "user", "content": "好"}], "score": 0.5, "none": None, "yes": True},
        {"n": 2, "messages": [], "score": float("inf"), "none": None, "yes": False},
    ]
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(records[0]) + "\n\n" + json.dumps(records[1]))
    (tmp_path / "b.json").write_text(json.dumps(records, indent=1))
    table = pa.Table.from_pylist(records)
    pq.write_table(table, tmp_path / "c.parquet")
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    with pa.OSFile(str(tmp_path / "e.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    found = list(read_records(tmp_path))
    assert [record for record, _ in found] == records * 5
    assert [place for _, place in found] == [
        f"{tmp_path}/{place}"
        for place in (
            "a.jsonl: line 2",
            "a.jsonl: line 4",
            "b.json: record 1",
            "b.json: record 2",
            "c.parquet: row 1",
            "c.parquet: row 2",
            "d.arrow: row 1",
            "d.arrow: row 2",
            "e.arrow: row 1",
            "e.arrow: row 2",
        )
    ]
    (tmp_path / "f.txt").write_text("好")
    with pytest.raises(ValueError, match=r"f\.txt: plain text holds no records; give \.jsonl"):
        read_records(tmp_path)


def test_odd_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": NaN, "b": ' + "9" * 5000 + "}\n[1]\n{]\n" + "[" * 9000 + "]" * 9000 + "\n5\n")
    with pytest.raises(InputError, match=r"a\.jsonl: line 3 \(byte \d+\): no JSON"):
        list(read_records(path))
    reader = read_records(path, on_error="skip")
    records = [record for record, _ in reader]
    assert records[1:] == [[1], 5] and records[0]["b"] == float("inf")
    assert (reader.documents, reader.bad_records) == (3, 2)
    assert reader.notes() == ["left out: 2 records that cannot be read"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("一\n\n二\n")
    (tmp_path / "b.csv").write_text("x")
    (tmp_path / "c.tar.gz").write_bytes(b"x")
    (tmp_path / "._a.txt").write_text("no")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a-checkpoint.txt").write_text("no")
    (tmp_path / "z.txt").symlink_to("a.txt")
    for inputs in ([tmp_path], [f"{tmp_path}/*"], [tmp_path / "a.txt", tmp_path]):
        reader = read_texts(inputs)  # type: ignore[arg-type]
        assert list(reader) == ["一", "二"]
        twice = "read once: 1 file given again"
        if len(inputs) == 2:
            twice = "read once: 2 files given again"
        assert reader.notes() == [
            "left out: 1 .csv, 1 .tar.gz (kinds of file that are not read)",
            "left out: 2 hidden files or folders",
            twice,
            "left out: 1 document without characters",
        ]
    assert list(read_texts(tmp_path / "._a.txt")) == ["no"], "what is named is read"
    assert list(read_texts(f"{tmp_path}/.*.txt")) == ["no"]
    with pytest.raises(ValueError, match=r"b\.csv: not a kind of file we read: .*make JSON lines of it"):
        read_texts(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"matches no file of a kind we read \(it holds 1 \.csv\)"):
        read_texts(f"{tmp_path}/*.csv")


def test_memory_is_bounded(tmp_path: Path) -> None:
    """An array of 100 MB on one line."""
    path = tmp_path / "a.json"
    element = json.dumps({"text": "人工智能" * 250}, ensure_ascii=False)
    with path.open("w", encoding="utf-8") as file:
        file.write("[" + element)
        for _ in range(33_000):
            file.write(", " + element)
        file.write("]")
    code = f"""
from zhuzi.corpus import read_texts
before = peak()
print(sum(1 for _ in read_texts({str(path)!r})), peak() - before)
"""
    documents, grown = run_measured(code)
    assert documents == 33_001
    assert grown < 40 << 10, f"{grown} KB"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"text": "a"}, {"text": 1}]', r"record 2 \(line 1, byte 16\): the field `text` holds a number"),
        ('[{"text": "a"},\n\n {"text": "b"} {}]', r"record 2 \(line 3, byte 18\): .*more than one object"),
        ('[{"text": "a"},]', r"record 2 .*a comma too many"),
        ('[{"text": "a"}, {"text": "b"}', r"record 2 .*a `\]` is missing"),
        ('[{"text": "a"},', r"record 2 .*the array is not closed"),
        ('[{"text": "a"},\n ', r"record 2 \(line 2, byte 17\): the array is not closed"),
        ('[{"text": "a"},\n {"text": "b', r"record 2 \(line 2, byte 17\): the array is not closed"),
        ('[{"text": "a"},\n {"text": 1, "c": tr', r"record 2 \(line 2, byte 17\): the array is not closed"),
        ('[{"text": "a"},\n {"text": ]', r"record 2 \(line 2, byte 17\): .*want a value here \(byte 9 of"),
        ('[{"text": "a"},\n {"text": ]\n', r"record 2 \(line 2, byte 17\): .*want a value here \(byte 9 of"),
        ('[{"text": "a"},\n {"text": "b"]\n', r"record 2 \(line 2, byte 17\): .*want `,` or `}` here"),
        ('[{"text": "a"},\n {"text": ,}]', r"record 2 \(line 2, byte 17\): .*want a value here"),
        (
            '[{"text": "a"}]\n[{"text": "b"}]',
            r"record 2 \(line 2, byte 16\): after the array comes a second array",
        ),
        ('[{"text": "a"}] x', r"record 2 \(line 1, byte 16\): after the array comes something else"),
    ],
)
def test_broken_arrays(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        list(read_texts(path))
    reader = read_texts(path, on_error="skip")
    assert list(reader) == ["a"] and reader.bad_records == 1
    path.write_bytes(gzip.compress(text.encode()))
    path = path.rename(tmp_path / "a.json.gz")
    reader = read_texts(path, on_error="skip")
    assert list(reader) == ["a"] and reader.bad_records == 1


@pytest.mark.parametrize("text", ["[]x", "[ ] [1]", "[", "[]"])
def test_broken_empty_arrays(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    for read in (read_texts, read_records):
        reader = read(path, on_error="skip")
        assert list(reader) == [] and reader.bad_records == (text != "[]")
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(text.encode() + b"\n" * 5000)[:-4])
    for read in (read_texts, read_records):
        reader = read(packed, on_error="skip")
        assert list(reader) == [] and reader.bad_records == 1
        with pytest.raises(InputError, match=r"a\.json\.gz"):
            list(read(packed))


def test_places_of_broken_elements(tmp_path: Path) -> None:
    """Texts and records are told of in the same words."""
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"},\n\n {"text": "b"},\n  {"text": }]')
    for read in (read_texts, read_records):
        with pytest.raises(InputError, match=r"record 3 \(line 4, byte 35\): no JSON"):
            list(read(path))
    path.write_text('[{"text": "a"},\n {"text": "' + "b" * 100 + '"}]')
    for read in (read_texts, read_records):
        said = r"record 2 \(line 2, byte 17\): a record of 112 bytes, more than the 50 allowed; .*raise `max_"
        with pytest.raises(InputError, match=said):
            list(read(path, max_record_bytes=50))
        reader = read(path, on_error="skip", max_record_bytes=50)
        assert (len(list(reader)), reader.bad_records) == (1, 1)


def test_a_record_of_many_fields_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({f"n{number}": "" for number in range(300_000)}) + "\n")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no field `text`; .*`n0`, .*`n7` and others"):
        list(read_texts(path))
    assert time.monotonic() - began < 10


def test_counters_are_asked_while_another_thread_reads() -> None:
    code = """
import sys, threading, time
from zhuzi.corpus import read_texts
reader = read_texts("-")
done = threading.Event()
def poll():
    while not done.is_set():
        reader.bytes_read, reader.documents, reader.files, reader.notes()
polling = threading.Thread(target=poll)
polling.start()
texts = list(reader)
done.set()
polling.join()
print(len(texts), reader.documents, reader.bytes_read > 0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            for _ in range(8):
                child.stdin.write(as_lines(["好"]).decode())
                child.stdin.flush()
                time.sleep(0.15)
            output, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    assert output.strip() == "8 8 True"


def test_standard_input_and_interruption() -> None:
    code = """
import signal, threading, time
from zhuzi.corpus import read_texts
reader = read_texts("-")
print(next(reader), flush=True)
timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
timer.daemon = True
timer.start()
began = time.monotonic()
try:
    list(reader)
except KeyboardInterrupt:
    print(time.monotonic() - began < 5)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(as_lines(["x" * 1000] * 2000).decode())
        child.stdin.flush()
        assert child.stdout.readline().strip() == "x" * 1000
        # The pipe stays open and brings nothing more.
        assert child.stdout.read().strip() == "True"
