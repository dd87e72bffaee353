"""Parquet and Arrow files that are damaged, cut, joined or hostile, and columns that are not there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from zhuzi.corpus import read_records, read_texts
from zhuzi.errors import InputError

pa = pytest.importorskip("pyarrow")


def write(path: Path, table: Any, kind: str = "stream", compression: str | None = None) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema, options=options) as out:
        out.write_table(table, max_chunksize=2)
    return path.read_bytes()


def texts_of(path: Path, field: str = "text") -> list[str]:
    return list(read_texts(path, field=field))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("claim", [1 << 31, 1 << 36, (1 << 63) - 1])
def test_a_forged_size_ends_no_process(tmp_path: Path, compression: str, claim: int) -> None:
    path = tmp_path / "a.arrow"
    whole = write(path, pa.table({"text": ["春" * 400]}), compression=compression)
    frame = whole.index({"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}[compression])
    path.write_bytes(whole[: frame - 8] + struct.pack("<q", claim) + whole[frame:])
    with pytest.raises(InputError, match=r"a\.arrow: damaged, .* bytes claim to unpack to " + str(claim)):
        texts_of(path)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", ["stream", "file"])
def test_whole_files_are_read(tmp_path: Path, kind: str, compression: str | None) -> None:
    texts = ["一" * 300, "二" * 300, "三", "四" * 1000, ""]
    kinds = pa.array(["a", "b", "a", "c", "b"]).dictionary_encode()
    table = pa.table({"n": range(5), "kind": kinds, "text": texts, "more": [{"text": t} for t in texts]})
    path = tmp_path / "a.arrow"
    write(path, table, kind, compression)
    assert texts_of(path) == texts[:4]
    assert texts_of(path, "more.text") == texts[:4]
    assert texts_of(path, "kind") == ["a", "b", "a", "c", "b"]
    assert [record for record, _ in read_records(path)] == table.to_pylist()


def test_what_follows_the_end_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["一", "二", "三"]})
    for kind in ("stream", "file"):
        whole = write(path, table, kind)
        path.write_bytes(whole * 2)
        with pytest.raises(InputError, match=r"a\.arrow: damaged: something follows the end of the stream"):
            texts_of(path)
    # A stream may end without its mark.
    whole = write(path, table)
    path.write_bytes(whole[:-8])
    assert texts_of(path) == ["一", "二", "三"]
    path.write_bytes(whole[:-8] * 2)
    with pytest.raises(InputError, match=r"a\.arrow: damaged: something follows the end of the stream"):
        texts_of(path)


def test_a_cut_file_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["一", "二", "三"]})
    whole = write(path, table, "file")
    stream = write(path, table)
    # At a batch boundary, in the footer, by a byte, and all but the start.
    for end in (8 + len(stream) - 8, 8 + len(stream), len(whole) - 20, len(whole) - 1, 9):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"a\.arrow: truncated: it begins as an Arrow file"):
            texts_of(path)
    for end in range(1, len(stream) - 8, 40):
        path.write_bytes(stream[:end])
        try:
            texts = texts_of(path)
        except InputError as e:
            assert "damaged, truncated or no Arrow IPC file" in str(e)
        else:
            assert texts == ["一", "二"][: len(texts)]


def test_broken_bytes_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    whole = write(path, pa.table({"text": ["春" * 400, "夏" * 400]}), compression="lz4")
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + b"\xff\xff" + whole[at + 2 :])
        try:
            texts_of(path)
        except (InputError, ValueError) as e:
            assert str(path) in str(e)


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_missing_columns_are_refused_at_first(tmp_path: Path, kind: str) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    batches = [pa.record_batch([[], []], schema=schema), pa.record_batch([[1], ["一"]], schema=schema)]
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_batches(batches), path)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, new(file, schema) as out:
            for batch in batches:
                out.write_batch(batch)
    assert texts_of(path) == ["一"]
    with pytest.raises(ValueError, match="the column `n` holds numbers, no text"):
        texts_of(path, "n")
    with pytest.raises(ValueError, match="no column `x`; name one that holds text with `field`: `text`"):
        texts_of(path, "x")


def test_rows_say_how_they_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write(path, pa.table({"text": ["一", None]}))
    with pytest.raises(InputError, match=r"a\.arrow: row 1: the column `text` is null here .*counted from 0"):
        texts_of(path)


def test_a_window_beyond_all_bounds_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    # A frame without a size; its window is 2^(10 + 22) bytes; one last raw block.
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([22 << 3]) + bytes([9, 0, 0]) + b"x")
    with pytest.raises(InputError, match=rf"window of {1 << 32} bytes, more than the {1 << 31} ") as caught:
        texts_of(path)
    assert "damaged" not in str(caught.value)
