"""What corpora are read from: kinds of files, ways to part them, and dirt."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import zhuzi
from corpus_tools import read_back, run_measured, shards_and_manifest, write_lines
from zhuzi import Tokenizer
from zhuzi.corpus import read_texts
from zhuzi.errors import InputError


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def texts_of(folder: Path, merged: Path) -> list[str]:
    tokenizer = Tokenizer.from_dir(merged)
    return [tokenizer.decode(ids) for ids in read_back(folder)]


def rejects_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_files(kind: str, merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    """The same documents as plain, from archives of several members; a large one fills several shards."""
    plain = write_lines(tmp_path / "zh.jsonl", chinese_texts * 25)
    data = plain.read_bytes()
    packed = tmp_path / f"zh.jsonl.{kind}"
    middle = data.index(b"\n", len(data) // 2) - 40  # in the middle of a line
    packed.write_bytes(PACKERS[kind](data[:middle]) + PACKERS[kind](data[middle:]))
    zhuzi.encode_corpus([plain], merged, tmp_path / "plain")
    made = zhuzi.encode_corpus([packed], merged, tmp_path / "packed", shard_bytes=500_000, num_threads=3)
    assert read_back(tmp_path / "packed") == read_back(tmp_path / "plain")
    assert (made.tasks, made.input_bytes) == (1, len(data))
    assert made.shards > 2
    names = sorted(p.name for p in (tmp_path / "packed").glob("shard*"))
    assert names[:4] == ["shard-00000.bin", "shard-00000.idx", "shard-00000_0001.bin", "shard-00000_0001.idx"]
    manifest = json.loads((tmp_path / "packed" / "manifest.json").read_text())
    ranges = [shard["inputs"][0] for shard in manifest["shards"]]
    assert [r["start"] for r in ranges[1:]] == [r["end"] for r in ranges[:-1]]
    assert ranges[-1]["end"] == len(data)
    again = zhuzi.encode_corpus([packed], merged, tmp_path / "again", shard_bytes=500_000, num_threads=1)
    assert shards_and_manifest(again.folder) == shards_and_manifest(tmp_path / "packed")


@pytest.mark.parametrize("kind", PACKERS)
def test_truncated_archives(kind: str, merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "zh.jsonl", chinese_texts)
    packed = tmp_path / f"zh.jsonl.{kind}"
    # Of no great use to a packer: so that many blocks of it are whole when the last is not.
    noise = "".join(json.dumps({"text": os.urandom(100).hex()}) + "\n" for _ in range(20_000)).encode()
    data = PACKERS[kind](plain.read_bytes() + noise)
    packed.write_bytes(data[: len(data) * 9 // 10])
    last = write_lines(tmp_path / "z.jsonl", ["last"])
    with pytest.raises(InputError, match=rf"zh\.jsonl\.{kind}: line \d+ \(byte \d+\): damaged or truncated"):
        zhuzi.encode_corpus([packed, last], merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = zhuzi.encode_corpus([packed, last], merged, tmp_path / "out", on_error="skip")
    assert made.bad_records == 1 and made.documents > len(chinese_texts)
    got = texts_of(made.folder, merged)
    assert (
        got[: len(chinese_texts)] == [t.replace("\u2581", " ") for t in chinese_texts] and got[-1] == "last"
    )
    (reject,) = rejects_of(made.folder)
    assert reject["path"] == str(packed) and reject["line"] == made.documents

    packed.write_bytes(b"this is no archive")
    with pytest.raises(InputError, match=r"not .* data, as its name says, but plain text"):
        zhuzi.encode_corpus([packed], merged, tmp_path / "none")


def test_parquet(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    texts = chinese_texts * 3
    titles = [f"题 {i}" for i in range(len(texts))]
    table = pa.table(
        {
            "n": list(range(len(texts))),
            "title": titles,
            "text": texts,
            "big": pa.array(texts, pa.large_string()),
        }
    )
    tokenizer = Tokenizer.from_dir(merged)
    wanted = [tokenizer.encode(t, add_eos=True) for t in texts]
    kinds: list[dict[str, object]] = [
        {"compression": name} for name in ("none", "zstd", "gzip", "lz4", "snappy")
    ]
    kinds += [{"use_dictionary": False}, {"data_page_version": "2.0", "data_page_size": 1000}]
    for number, options in enumerate(kinds):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=60, **options)
        made = zhuzi.encode_corpus([path], merged, tmp_path / f"out{number}", shard_bytes=50_000)
        assert made.tasks > 2, "row groups are cut into tasks"
        assert read_back(made.folder) == wanted
        both = zhuzi.encode_corpus([path], merged, tmp_path / f"both{number}", field=["title", "big"])
        joined = [tokenizer.encode(f"{a}\n{b}", add_eos=True) for a, b in zip(titles, texts, strict=True)]
        assert read_back(both.folder) == joined
    for field, reason in [
        ("content", "no column `content`; name one that holds text with `field`: `title`, `text`, `big`"),
        ("n", "the column `n` holds numbers, no text"),
    ]:
        with pytest.raises(ValueError, match=reason):
            zhuzi.encode_corpus([path], merged, tmp_path / "x", field=field)

    pq.write_table(pa.table({"text": ["一", None, "", "四"]}), path)
    with pytest.raises(InputError, match=r"\.parquet: row 1: the column `text` is null here"):
        zhuzi.encode_corpus([path], merged, tmp_path / "null")
    made = zhuzi.encode_corpus([path], merged, tmp_path / "null", on_error="skip")
    assert (made.documents, made.empty_documents, made.bad_records) == (2, 1, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"\.parquet: damaged, truncated or no parquet file"):
        zhuzi.encode_corpus([path], merged, tmp_path / "cut")


@pytest.mark.parametrize(
    ("split", "text", "wanted"),
    [
        ({}, "一\n二\r\n\n三", ["一", "二", "三"]),
        ({"split": "blank-line"}, "\n一\n二\n \t\n\n三\r\n\r\n四", ["一\n二", "三", "四"]),
        ({"split": "separator", "separator": "\n\n\n"}, "一\n\n二\n\n\n\n三\n\n\n", ["一\n\n二", "\n三"]),
        ({"split": "separator", "separator": "---"}, "一---\n二-----三", ["一", "\n二", "--三"]),
        ({"split": "file"}, "\ufeff一\n\n二\n", ["一\n\n二\n"]),
    ],
)
def test_ways_to_part_text(
    split: dict[str, str], text: str, wanted: list[str], merged: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    made = zhuzi.encode_corpus(inputs, merged, tmp_path / "out", **split)  # type: ignore[arg-type]
    assert texts_of(made.folder, merged) == wanted * 2


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"split": "blank-line"},
        {"split": "separator", "separator": "\n\n\n"},
        {"split": "separator", "separator": "了"},
    ],
)
def test_tasks_do_not_cut_records(
    split: dict[str, str], merged: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    """However small the tasks, the documents are those of one task."""
    text = "\n\n\n\n".join(chinese_texts[:12]) + "\n\n"
    (tmp_path / "a.txt").write_text(text)
    whole = zhuzi.encode_corpus([tmp_path / "a.txt"], merged, tmp_path / "whole", **split)  # type: ignore[arg-type]
    assert whole.tasks == 1
    for number, size in enumerate((1, 700, 4999)):
        out = tmp_path / f"out{number}"
        made = zhuzi.encode_corpus([tmp_path / "a.txt"], merged, out, shard_bytes=size, **split)  # type: ignore[arg-type]
        assert made.tasks > 1
        assert read_back(out) == read_back(tmp_path / "whole")
        assert made.empty_documents == whole.empty_documents


def test_several_fields(merged: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "文", "n": [1, {"title": "no"}], "title": "\\u9898"}\n{"text": "文"}\n')
    with pytest.raises(InputError, match=r"line 2 .*no field `title`"):
        zhuzi.encode_corpus([path], merged, tmp_path / "out", field=["title", "text"])
    made = zhuzi.encode_corpus([path], merged, tmp_path / "out", field=["title", "text"], on_error="skip")
    assert texts_of(made.folder, merged) == ["题\n文"]
    assert [r["line"] for r in rejects_of(made.folder)] == [2]


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("content.text", ["一", "二"]),
        ("parts.t", ["三\n四", ""]),
        ("words", ["五\n六", "七"]),
        (["content.text", "words"], ["一\n五\n六", "二\n七"]),
    ],
)
def test_fields_are_paths(field: str | list[str], wanted: list[str], merged: Path, tmp_path: Path) -> None:
    """The same from lines, an array, parquet and Arrow, through objects and lists."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    records = [
        {"content": {"text": "一", "n": 1}, "parts": [{"t": "三"}, {"t": "四"}], "words": ["五", "六"]},
        {"content": {"text": "二", "n": 2}, "parts": [], "words": ["七"]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(records).encode()))
    table = pa.Table.from_pylist(records)
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=1)
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    files = sorted(tmp_path.iterdir())
    made = zhuzi.encode_corpus(files, merged, tmp_path / "out", field=field, shard_bytes=20)
    assert texts_of(made.folder, merged) == [text for text in wanted if text] * 4
    assert made.files == 4 and made.tasks > 4
    for path in files:
        with pytest.raises((InputError, ValueError), match=r"`content` holds .* no text; .*`content\.text`"):
            zhuzi.encode_corpus([path], merged, tmp_path / "no", field="content")
        with pytest.raises((InputError, ValueError), match=r"no (field|column) `x\.y`"):
            zhuzi.encode_corpus([path], merged, tmp_path / "no", field="x.y")


def test_a_plan_of_the_first_version_goes_on(merged: Path, tmp_path: Path) -> None:
    """Then a folder's .json and .ndjson were left out, hidden files read, files given twice read twice."""
    write_lines(tmp_path / "in" / ".a.jsonl", ["甲"])
    write_lines(tmp_path / "in" / "b.jsonl", ["乙"])
    inputs = [tmp_path / "in" / ".a.jsonl", tmp_path / "in" / "b.jsonl"]
    made = zhuzi.encode_corpus(inputs, merged, tmp_path / "out")
    plan = json.loads((made.folder / "plan.json").read_text())
    assert plan["format"] == 2
    (made.folder / "plan.json").write_text(json.dumps(plan | {"format": 1}))
    write_lines(tmp_path / "in" / "c.json", ["丙"])
    again = zhuzi.encode_corpus([tmp_path / "in"], merged, tmp_path / "out")
    assert (again.outcome, again.documents) == ("already", 2)


def test_a_plan_of_the_first_version_to_which_files_were_added(merged: Path, tmp_path: Path) -> None:
    """The plain command finds what it was planned with, listed then and since."""
    folder = tmp_path / "in"
    write_lines(folder / ".a.jsonl", ["甲"])
    write_lines(folder / "b.jsonl", ["乙"])
    made = zhuzi.encode_corpus([folder / ".a.jsonl", folder / "b.jsonl"], merged, tmp_path / "out")
    plan = json.loads((made.folder / "plan.json").read_text())
    (made.folder / "plan.json").write_text(json.dumps(plan | {"format": 1}))
    write_lines(folder / "c.json", ["丙"])
    write_lines(folder / "d.jsonl", ["丁"])
    added = zhuzi.encode_corpus([folder], merged, tmp_path / "out", append=True)
    assert (added.outcome, added.documents) == ("finished", 4)
    again = zhuzi.encode_corpus([folder], merged, tmp_path / "out")
    assert (again.outcome, again.documents) == ("already", 4)
    write_lines(folder / "e.ndjson", ["戊"])
    with pytest.raises(zhuzi.ZhuziError, match=r"the input .*e\.ndjson, which is new"):
        zhuzi.encode_corpus([folder], merged, tmp_path / "out")
    (folder / "e.ndjson").unlink()
    (folder / "c.json").unlink()
    with pytest.raises(zhuzi.ZhuziError, match=r"the input .*c\.json, which is missing now"):
        zhuzi.encode_corpus([folder], merged, tmp_path / "out")


def test_the_rules_of_the_first_version_alone_name_its_inputs(merged: Path, tmp_path: Path) -> None:
    """Today the folder holds nothing that is read."""
    path = write_lines(tmp_path / "in" / ".a.jsonl", ["甲"])
    made = zhuzi.encode_corpus([path], merged, tmp_path / "out")
    plan = json.loads((made.folder / "plan.json").read_text())
    (made.folder / "plan.json").write_text(json.dumps(plan | {"format": 1}))
    assert zhuzi.encode_corpus([tmp_path / "in"], merged, tmp_path / "out").outcome == "already"


def test_what_a_pattern_matches_and_is_no_file(merged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_lines(folder / "a.jsonl", ["好"])
    write_lines(folder / "sub" / "b.jsonl", ["坏"])
    os.mkfifo(folder / "pipe")
    made = zhuzi.encode_corpus([f"{folder}/*"], merged, tmp_path / "out")
    assert (made.documents, dict(made.other_kinds)) == (1, {"folder": 1, "pipe or device": 1})
    made = zhuzi.encode_corpus([f"{folder}/**/*"], merged, tmp_path / "deep")
    assert (made.documents, dict(made.other_kinds)) == (2, {"pipe or device": 1})
    made = zhuzi.encode_corpus([folder], merged, tmp_path / "whole")
    assert (made.documents, dict(made.other_kinds)) == (2, {"pipe or device": 1})
    (folder / "sub2").mkdir()
    assert (
        "left out: 2 folders, 1 pipe or device (kinds of file that are not read)"
        in read_texts(f"{folder}/*").notes()
    )
    with pytest.raises(ValueError, match=r"matches no file of a kind we read \(it holds 2 folders\)"):
        read_texts(f"{folder}/sub*")
    (folder / "c.txt").symlink_to(folder / "gone.txt")
    for inputs in (f"{folder}/*", f"{folder}/c.*"):
        with pytest.raises(FileNotFoundError, match=r"c\.txt"):
            read_texts(inputs)
    made = zhuzi.encode_corpus([f"{folder}/*"], merged, tmp_path / "link", on_error="skip")
    assert (made.documents, made.bad_records) == (1, 1)
    assert rejects_of(made.folder)[0]["path"] == str(folder / "c.txt")


def test_only_hidden_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "in" / ".a.jsonl", ["好"])
    for inputs in (tmp_path / "in", f"{tmp_path}/in/*"):
        with pytest.raises(ValueError, match=r"\(it holds 1 hidden\)"):
            read_texts(inputs)


def test_inputs_in_the_output_folder(merged: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "io" / "corp" / "a.jsonl", ["好"])
    for inputs in ("io", "io/corp", "io/corp/a.jsonl", "io/corp/*"):
        with pytest.raises(
            ValueError, match=r"the input lies in the output folder .*io; choose another `out`"
        ):
            zhuzi.encode_corpus([tmp_path / inputs], merged, tmp_path / "io")


def test_the_output_is_no_input(merged: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["好"])
    write_lines(tmp_path / "b.csv", ["x"])
    made = zhuzi.encode_corpus([tmp_path], merged, tmp_path / "out")
    assert (made.documents, made.other_kinds, made.hidden) == (1, {".csv": 1}, 0)
    again = zhuzi.encode_corpus([tmp_path], merged, tmp_path / "out")
    assert (again.outcome, again.other_kinds) == ("already", {".csv": 1})
    other = zhuzi.encode_corpus([tmp_path], merged, tmp_path / "other")
    assert other.documents == 1 and other.records_of_tools == 3, "what another corpus wrote is no text"
    plan = zhuzi.corpus.plan_corpus([tmp_path], merged, out=tmp_path / "out")
    assert "1 .csv" in plan.text()


def test_names_that_are_not_utf8(merged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_lines(folder / "a.jsonl", ["好"])
    name = os.fsencode(folder) + b"/\xb4\xba.txt"
    Path(os.fsdecode(name)).write_text("春")
    with pytest.raises(ValueError, match="the name is not UTF-8; rename the file"):
        zhuzi.encode_corpus([folder], merged, tmp_path / "out")
    made = zhuzi.encode_corpus([folder], merged, tmp_path / "out", on_error="skip")
    assert (made.documents, made.bad_records) == (1, 1)
    (reject,) = rejects_of(made.folder)
    assert reject["reason"] == "the name is not UTF-8; rename the file"


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_broken_arrow_files(damage: str, merged: Path, tmp_path: Path) -> None:
    """Whatever is in it, an error names the file."""
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["好"] * 100})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    whole = path.read_bytes()
    for at in range(0, len(whole) - 8, 13):
        flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        path.write_bytes(whole[:at] if damage == "cut" else flipped)
        try:
            made = zhuzi.encode_corpus([path], merged, tmp_path / f"out{at}")
        except (InputError, ValueError) as error:
            assert "a.arrow" in str(error) or "no document" in str(error)
        else:
            assert made.documents <= 100


def encode_pipe(data: bytes, merged: Path, out: Path, *more: str) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-c", "from zhuzi.cli import main; main()", "corpus", "encode", "-"]
    line += ["--tokenizer", str(merged), "--out", str(out), *more]
    return subprocess.run(line, input=data, capture_output=True, timeout=120)


def test_standard_input(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "zh.jsonl", chinese_texts * 10)
    zhuzi.encode_corpus([plain], merged, tmp_path / "plain")
    done = encode_pipe(plain.read_bytes(), merged, tmp_path / "out", "--shard-bytes", "1000000")
    assert done.returncode == 0, done.stderr
    assert read_back(tmp_path / "out") == read_back(tmp_path / "plain")
    again = encode_pipe(b"", merged, tmp_path / "out")
    assert again.returncode == 1 and b"standard input, which cannot be resumed" in again.stderr
    bad = encode_pipe(plain.read_bytes() + b"bad\n", merged, tmp_path / "bad", "--shard-bytes", "1000000")
    assert bad.returncode == 1 and f"-: line {len(chinese_texts) * 10 + 1} " in bad.stderr.decode()
    assert not (tmp_path / "bad").exists(), "nothing that looks whole stays"
    plain_text = encode_pipe("一\n二".encode(), merged, tmp_path / "text")
    assert plain_text.returncode == 1 and b"plain text needs --stdin txt" in plain_text.stderr
    text = encode_pipe("一\n二".encode(), merged, tmp_path / "text", "--stdin", "txt")
    assert text.returncode == 0 and texts_of(tmp_path / "text", merged) == ["一", "二"]
    with pytest.raises(ValueError, match="name it once"):
        zhuzi.encode_corpus(["-", "-"], merged, tmp_path / "twice")


def test_a_corpus_of_standard_input_is_appended_to(merged: Path, tmp_path: Path) -> None:
    first = encode_pipe('{"text": "旧"}\n'.encode(), merged, tmp_path / "out")
    assert first.returncode == 0, first.stderr
    new = write_lines(tmp_path / "new.jsonl", ["新"])
    zhuzi.encode_corpus([new], merged, tmp_path / "out", append=True)
    assert texts_of(tmp_path / "out", merged) == ["旧", "新"]
    again = encode_pipe('{"text": "再"}\n'.encode(), merged, tmp_path / "out", "--append")
    assert again.returncode == 1 and b"append the file" in again.stderr


def test_packed_text_on_standard_input_is_named(merged: Path, tmp_path: Path) -> None:
    done = encode_pipe(gzip.compress(b'{"text": "a"}'), merged, tmp_path / "out")
    assert done.returncode == 1 and b"unpack it first" in done.stderr


def test_dirt_is_put_aside(merged: Path, tmp_path: Path) -> None:
    """Every kind of bad record, its place and its reason; what is good stays, in order."""
    lines = [
        b'{"text": "\xe4\xb8\x80"}',
        b'{"text": "\xff"}',
        b"not json",
        b'{"text": null}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "' + b"x" * 2000 + b'"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xe4\xba\x8c"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "b.txt").write_bytes("三\n\x00\n".encode() + "四".encode("utf-16"))
    inputs = [path, tmp_path / "b.txt"]
    options = {"on_error": "skip", "max_record_bytes": 1000}
    made = zhuzi.encode_corpus(inputs, merged, tmp_path / "out", **options)  # type: ignore[arg-type]
    rejects = rejects_of(made.folder)
    starts = [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
    of_a = [r for r in rejects if r["path"] == str(path)]
    assert [(r["line"], r["offset"]) for r in of_a] == [(n + 1, starts[n]) for n in (1, 2, 3, 5, 6)]
    for reject, reason in zip(
        of_a,
        ["not UTF-8", "no JSON object", "holds null, no text", "a record of 2012 bytes", "lone surrogate"],
        strict=True,
    ):
        assert reason in str(reject["reason"])
    (of_b,) = [r for r in rejects if r["path"] == str(inputs[1])]
    assert "UTF-16" in str(of_b["reason"]) and made.bad_records == len(rejects)
    assert texts_of(made.folder, merged) == ["一", "a\x00b", "二", "三", "\x00"], "NUL is a character"
    # A run that stops at bad records does not go on with one that skips them, nor end it.
    with pytest.raises(zhuzi.ZhuziError, match='aside so far; resume it with on_error="skip"'):
        zhuzi.encode_corpus(inputs, merged, tmp_path / "out", max_record_bytes=1000)
    for threads in (1, 5):
        again = zhuzi.encode_corpus(
            inputs,
            merged,
            tmp_path / f"t{threads}",
            num_threads=threads,
            **options,  # type: ignore[arg-type]
        )
        assert shards_and_manifest(again.folder) == shards_and_manifest(made.folder)


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl"])
def test_a_very_long_line_in_bounded_memory(ending: str, merged: Path, tmp_path: Path) -> None:
    very_long(merged, tmp_path, ending, 150 << 20)


@pytest.mark.slow
def test_a_line_of_a_gigabyte(merged: Path, tmp_path: Path) -> None:
    very_long(merged, tmp_path, "txt", 1 << 30)


@pytest.mark.slow
def test_the_longest_records_that_are_taken(merged: Path, tmp_path: Path) -> None:
    """Twelve Chinese records of 60 MB: a thread holds one at a time, however many there are."""
    path = tmp_path / "long.jsonl"
    text = "人工智能是计算机科学的一个分支。" * (60_000_000 // 48)
    with path.open("w", encoding="utf-8") as file:
        for number in range(12):
            file.write(json.dumps({"text": f"{number}{text}"}, ensure_ascii=False) + "\n")
    code = f"""
import zhuzi
made = zhuzi.encode_corpus([{str(path)!r}], {str(merged)!r}, {str(tmp_path / "out")!r}, num_threads=2)
print(made.documents, peak() >> 10)
"""
    documents, peak = run_measured(code)
    assert documents == 12
    assert peak < 1200, f"{peak} MB"


def very_long(merged: Path, tmp_path: Path, ending: str, size: int) -> None:
    path = tmp_path / f"long.{ending}"
    opener = gzip.open if ending.endswith("gz") else open
    good = b'{"text": "good"}\n' if ending == "jsonl" else b"good\n"
    with opener(path, "wb") as file:
        file.write(good)
        for _ in range(size >> 20):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + good)
    code = f"""
import zhuzi
tokenizer = zhuzi.Tokenizer.from_dir({str(merged)!r})
before = peak()
made = zhuzi.encode_corpus([{str(path)!r}], tokenizer, {str(tmp_path / "out")!r},
                           on_error="skip", max_record_bytes=1 << 24)
print(made.documents, made.bad_records, peak() - before)
"""
    documents, bad, grown = run_measured(code)
    assert (documents, bad) == (2, 1)
    assert grown < 100 << 10, f"{grown >> 10} MB for a record of at most 16"
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["line"], reject["offset"], reject["bytes"]) == (2, len(good), (size >> 20 << 20) + 1)
    with pytest.raises(
        InputError, match=r"line 2 \(byte \d+\): a record of \d+ bytes, more than the 67108864"
    ):
        zhuzi.encode_corpus([path], merged, tmp_path / "stop")


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ({"split": "blank-line"}, [b"a\n\n", b"x" * 700 + b"\n", b" \n", b"b"]),
        ({"split": "separator", "separator": "=="}, [b"a==", b"x" * 700, b"==", b"b"]),
        ({"split": "file"}, [b"x" * 3000]),
    ],
)
def test_long_records_of_other_kinds(
    split: dict[str, str], parts: list[bytes], merged: Path, tmp_path: Path
) -> None:
    """Also longer than a block: 3 MB and more."""
    parts = [part * 5000 if part.startswith(b"x") else part for part in parts]
    (tmp_path / "a.txt").write_bytes(b"".join(parts))
    (tmp_path / "z.txt").write_bytes(b"c")
    made = zhuzi.encode_corpus(
        [tmp_path / "a.txt", tmp_path / "z.txt"],
        merged,
        tmp_path / "out",
        on_error="skip",
        max_record_bytes=1000,
        **split,  # type: ignore[arg-type]
    )
    assert made.bad_records == 1
    assert texts_of(made.folder, merged) == (["c"] if len(parts) == 1 else ["a", "b", "c"])


def test_empty_files_and_broken_links(merged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_lines(folder / "b.jsonl", ["好"])
    (folder / "a.jsonl").touch()
    (folder / "c.txt").write_text("\n\n")
    for kind, pack in PACKERS.items():
        (folder / f"d.txt.{kind}").write_bytes(pack(b""))
    made = zhuzi.encode_corpus([folder], merged, tmp_path / "out")
    assert (made.documents, made.empty_documents) == (1, 2)
    (folder / "e.txt").symlink_to(folder / "gone.txt")
    with pytest.raises(FileNotFoundError, match=r"e\.txt"):
        zhuzi.encode_corpus([folder], merged, tmp_path / "link")
    made = zhuzi.encode_corpus([folder], merged, tmp_path / "link", on_error="skip")
    assert (made.documents, made.bad_records) == (1, 1)
    assert rejects_of(made.folder)[0]["path"] == str(folder / "e.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="no regular file"):
        zhuzi.encode_corpus([tmp_path / "pipe.txt"], merged, tmp_path / "pipe")


def test_unreadable_folders(merged: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        write_lines(folder / "in" / "a.jsonl", ["好"])
        write_lines(folder / "in" / "locked" / "b.jsonl", ["坏"])
        (folder / "in" / "locked").chmod(0)
        root = os.geteuid() == 0
        try:
            if root:  # whom no permission stops
                os.seteuid(65534)
            with pytest.raises(PermissionError, match="locked"):
                zhuzi.encode_corpus([folder / "in"], tokenizer, folder / "out")
            made = zhuzi.encode_corpus([folder / "in"], tokenizer, folder / "out", on_error="skip")
        finally:
            if root:
                os.seteuid(0)
            (folder / "in" / "locked").chmod(0o755)
        assert (made.documents, made.bad_records) == (1, 1)
        assert rejects_of(made.folder)[0]["path"] == str(folder / "in" / "locked")


def test_a_file_that_changes_while_it_is_read(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", chinese_texts * 300)  # six times what is read ahead
    changed = threading.Event()

    def change(*_: int) -> None:
        if not changed.is_set():
            changed.set()
            with path.open("a") as file:
                file.write('{"text": "new"}\n')

    with pytest.raises(InputError, match=r"a\.jsonl: changed since the run was planned"):
        zhuzi.encode_corpus([path], merged, tmp_path / "out", num_threads=1, progress=change)
    assert changed.is_set() and not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_input(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    peaks = []
    for number, copies in enumerate((20, 200)):
        path = write_lines(tmp_path / f"{number}.jsonl", chinese_texts * copies)
        code = f"""
import zhuzi
zhuzi.encode_corpus([{str(path)!r}], {str(merged)!r}, {str(tmp_path / f"out{number}")!r}, num_threads=2)
print(peak())
"""
        peaks += run_measured(code)
    assert peaks[1] < peaks[0] + (64 << 10), f"{peaks} KB for 2.5 and 25 MB"
