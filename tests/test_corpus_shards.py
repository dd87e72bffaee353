"""What is done with shards: verify, merge, export, stats, show."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import zhuzi
from corpus_tools import read_back, write_lines
from zhuzi.cli import cli
from zhuzi.corpus import (
    as_arrow,
    corpus_stats,
    export_dataset,
    export_datatrove,
    locate_document,
    merge_shards,
    show_document,
    verify_corpus,
)
from zhuzi.errors import InputError, MismatchError, OutputExistsError


@pytest.fixture(scope="module")
def texts(chinese_texts: list[str]) -> list[str]:
    return chinese_texts * 8


@pytest.fixture
def corpus(texts: list[str], merged: Path, tmp_path: Path) -> Path:
    """Of two files, in several shards."""
    middle = len(texts) // 3
    inputs = [
        write_lines(tmp_path / "a.jsonl", texts[:middle]),
        write_lines(tmp_path / "b.jsonl", texts[middle:]),
    ]
    made = zhuzi.encode_corpus(inputs, merged, tmp_path / "corpus", shard_bytes=150_000)
    assert made.shards > 4
    return made.folder


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_corpus(corpus: Path) -> None:
    seen: list[int] = []
    verify_corpus(corpus, progress=seen.append)
    assert seen
    done = CliRunner().invoke(cli, ["corpus", "verify", str(corpus)])
    assert done.exit_code == 0 and "every byte" in done.output


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_any_flipped_bit_is_found(ending: str, corpus: Path) -> None:
    path = corpus / f"shard-00001.{ending}"
    size = path.stat().st_size
    places = {0, 9, 17, 20, 30, 34, size - 1, size - 8, *range(0, size, size // 20)}
    for at in places:
        flip(path, at)
        with pytest.raises(InputError, match=rf"shard-00001\.{ending}"):
            verify_corpus(corpus)
        flip(path, at)
    verify_corpus(corpus)


def test_what_else_can_be_wrong(corpus: Path, tmp_path: Path) -> None:
    manifest = corpus / "manifest.json"
    flip(manifest, manifest.read_bytes().index(b'"documents"') + 14)
    with pytest.raises(InputError, match="its own checksum"):
        verify_corpus(corpus)
    flip(manifest, manifest.read_bytes().index(b'"documents"') + 14)
    (corpus / "shard-00002.idx").unlink()
    bin3 = corpus / "shard-00003.bin"
    bin3.write_bytes(bin3.read_bytes()[:-1])
    bin0 = corpus / "shard-00000.bin"
    bin0.write_bytes(bin0.read_bytes() + b"x")
    (corpus / "shard-99999.bin").touch()
    with pytest.raises(InputError) as caught:
        verify_corpus(corpus)
    found = str(caught.value).splitlines()
    assert len(found) == 4
    wanted = [
        "shard-00000.bin: continues after its end",
        "shard-00002.idx: is missing",
        "shard-00003.bin: ends too early",
        "shard-99999.bin: a foreign shard",
    ]
    for line, what in zip(found, wanted, strict=True):
        assert what in line
    shown = CliRunner().invoke(cli, ["corpus", "verify", str(corpus)])
    assert shown.exit_code != 0 and "shard-99999" in shown.output
    with pytest.raises(ValueError, match="it is no corpus, or its encoding did not finish"):
        verify_corpus(tmp_path)


def test_merge(corpus: Path, texts: list[str], merged: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    made = merge_shards(corpus, tmp_path / "joined")
    whole = zhuzi.encode_corpus(
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], merged, tmp_path / "whole", shard_bytes=1 << 30
    )
    for ending in ("bin", "idx"):
        one = (whole.folder / f"shard-00000.{ending}").read_bytes()
        assert (tmp_path / f"joined.{ending}").read_bytes() == one, "as if it had been one shard"
    dataset = megatron.IndexedDataset(str(made.prefix))
    assert len(dataset) == made.documents == len(texts)
    with pytest.raises(OutputExistsError, match=r"joined\.bin: already there"):
        merge_shards(corpus, tmp_path / "joined")
    flip(corpus / "shard-00001.bin", 100)
    with pytest.raises(InputError, match=r"shard-00001\.bin"):
        merge_shards(corpus, tmp_path / "joined", overwrite=True)
    assert not list(tmp_path.glob("*.partial"))
    assert (tmp_path / "joined.bin").read_bytes() == (whole.folder / "shard-00000.bin").read_bytes()


def test_datasets_reads_the_export(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    documents = read_back(corpus)
    export_dataset(corpus, tmp_path / "documents")
    rows = datasets.load_from_disk(str(tmp_path / "documents"))
    assert rows["input_ids"][:] == documents
    assert rows.features["input_ids"].feature.dtype == "uint16"
    flat = [id for document in documents for id in document]
    for block in (100, 4096):
        made = export_dataset(corpus, tmp_path / str(block), block=block)
        blocks = datasets.load_from_disk(str(tmp_path / str(block)))
        assert len(blocks) == made.rows == len(flat) // block
        assert [id for row in blocks["input_ids"][:] for id in row] == flat[: made.rows * block]
        assert made.left_over == len(flat) % block
    with pytest.raises(MismatchError, match="do not fill one block"):
        export_dataset(corpus, tmp_path / "x", block=1 << 30)


def test_an_arrow_view_copies_nothing(corpus: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    before = pa.total_allocated_bytes()
    view = as_arrow(corpus / "shard-00001", 128)
    assert pa.total_allocated_bytes() == before
    tokens = zhuzi.Corpus(corpus).shards[1].data
    assert np.array_equal(view.flatten().to_numpy(), tokens[: len(view) * 128])


def test_datatrove(corpus: Path, tmp_path: Path) -> None:
    export_datatrove(corpus, tmp_path / "ds")
    names = sorted(p.name for p in (tmp_path / "ds").glob("*.ds"))
    got = []
    for name in names:
        ids = np.fromfile(tmp_path / "ds" / name, "<u2")
        ends = np.fromfile(tmp_path / "ds" / f"{name}.index", "<u8")
        assert ends[-1] == len(ids)
        got += [part.tolist() for part in np.split(ids, ends[:-1].astype(int))]
    assert got == read_back(corpus)
    assert (tmp_path / "ds" / names[0]).stat().st_nlink == 2, "no second copy on the disk"


def test_stats(corpus: Path, texts: list[str], merged: Path, base_model_file: Path, tmp_path: Path) -> None:
    stats = corpus_stats(corpus, merged, base=32000)
    documents = read_back(corpus)
    ids = [id for document in documents for id in document]
    assert (stats.documents, stats.tokens) == (len(documents), len(ids))
    assert stats.characters == sum(map(len, texts))
    assert stats.percentiles[0] == min(map(len, documents)) and stats.percentiles[100] == max(
        map(len, documents)
    )
    assert sum(n for _, n in stats.histogram) == len(documents)
    assert stats.byte_tokens == sum(3 <= id < 259 for id in ids) - ids.count(3 + 0x0A)
    assert stats.newline_tokens == ids.count(3 + 0x0A) > 0
    assert stats.new_tokens == sum(id >= 32000 for id in ids)
    assert stats.new_pieces is not None
    assert len(stats.unused_new) == stats.new_pieces - len({id for id in ids if id >= 32000})
    assert [s.documents for s in stats.sources] == [len(texts) // 3, len(texts) - len(texts) // 3]
    assert sum(s.tokens for s in stats.sources) == len(ids)
    line = ["corpus", "stats", str(corpus), "--tokenizer", str(merged), "--base", str(base_model_file)]
    shown = CliRunner().invoke(cli, [*line, "--html", str(tmp_path / "stats.html")])
    assert shown.exit_code == 0 and "most frequent: " + stats.frequent_new[0][0] in shown.output
    page = (tmp_path / "stats.html").read_text()
    assert page.count('class="bars"') >= 3 and page.count("<svg") == 1
    assert "http" not in page and "src=" not in page
    with pytest.raises(MismatchError, match="another tokenizer"):
        corpus_stats(corpus, zhuzi.Tokenizer.from_sentencepiece(base_model_file))


def test_show(corpus: Path, texts: list[str], merged: Path, tmp_path: Path) -> None:
    number = len(texts) // 3 + 5
    document = show_document(corpus, merged, number)
    assert document.text == texts[number]
    assert document.source == str(tmp_path / "b.jsonl")
    stretch = (tmp_path / "b.jsonl").read_bytes()[document.start : document.end]
    assert json.loads(stretch.splitlines()[document.place])["text"] == texts[number], (
        "back to file and offset"
    )
    line = ["corpus", "show", str(corpus), str(number), "--tokenizer", str(merged), "--ids"]
    shown = CliRunner().invoke(cli, line)
    assert shown.exit_code == 0 and texts[number] in shown.output and "b.jsonl, line 6, byte" in shown.output
    (tmp_path / "b.jsonl").unlink()
    shown = CliRunner().invoke(cli, line)
    assert (
        shown.exit_code == 0
        and "number 5 kept of 0 to" in shown.output
        and "b.jsonl: No such" in shown.output
    )
    beyond = CliRunner().invoke(cli, ["corpus", "show", str(corpus), "99999999", "--tokenizer", str(merged)])
    assert beyond.exit_code != 0


def test_locate(texts: list[str], merged: Path, tmp_path: Path) -> None:
    """Each document of every kind of file is found again, with others left out for every reason."""
    short = [f"{n} {' '.join(text.split())[:200]}" for n, text in enumerate(texts[:120])]
    bad = ['{"text": 1}', '{"text": ""}', '{"text": "短"}']
    lines = [json.dumps({"text": text}) for text in short[:40]]
    lines[10:10] = bad
    lines[30:30] = [lines[3], lines[5]]
    plain = "".join(f"{line}\n" for line in [*lines, lines[0], lines[7]])
    (tmp_path / "a.jsonl").write_text("\ufeff" + plain, encoding="utf-8")
    packed = "".join(json.dumps({"text": text}) + "\r\n" for text in [short[2], *short[40:80], short[50]])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    (tmp_path / "c.txt").write_text(
        "\n\n".join(f"{text}\n第二行" for text in short[80:100]), encoding="utf-8"
    )
    rows = pa.table({"text": [short[85], None, *short[100:], short[101]]})
    pq.write_table(rows, tmp_path / "d.parquet", row_group_size=7)
    inputs = [tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.txt", "d.parquet")]
    for dedup in (False, True):
        out = tmp_path / f"corpus-{dedup}"
        zhuzi.encode_corpus(
            inputs, merged, out, dedup=dedup, clean=True, min_chars=2, split="blank-line",
            on_error="skip", shard_bytes=3_000,
        )  # fmt: skip
        count = json.loads((out / "manifest.json").read_bytes())["documents"]
        assert count == len(short) + (0 if dedup else 7) + 1
        seen = set()
        for number in range(count):
            text, origin = show_document(out, merged, number).text, locate_document(out, number)
            seen.add(origin)
            if origin.path.suffix == ".parquet":
                assert origin.line is None
                record = rows["text"][origin.offset].as_py()
            else:
                raw = origin.path.read_bytes()
                raw = gzip.decompress(raw) if origin.path.suffix == ".gz" else raw
                assert raw[: origin.offset].count(b"\n") + 1 == origin.line
                end = b"\n\n" if origin.path.suffix == ".txt" else b"\n"
                record = raw[origin.offset :].split(end)[0].decode()
                record = record if origin.path.suffix == ".txt" else json.loads(record)["text"]
            assert " ".join(record.split()) == " ".join(text.split()), (number, origin)
        assert len(seen) == count
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match="changed"):
        locate_document(out, 0)
    with pytest.raises(ValueError, match="no document"):
        locate_document(out, count)


def test_a_large_vocabulary_keeps_its_width(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    """65,500 ids and more are stored in four bytes, and everything reads them so."""
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    added = [f"[X{n}]" for n in range(65_500 - tokenizer.vocab_size)]
    wide = zhuzi.Tokenizer(
        (merged / "tokenizer.model").read_bytes(), added_tokens=[*tokenizer.added_tokens, *added]
    )
    path = write_lines(tmp_path / "a.jsonl", chinese_texts)
    zhuzi.encode_corpus([path], wide, tmp_path / "out", shard_bytes=20_000)
    assert {s.dtype for s in zhuzi.Corpus(tmp_path / "out").shards} == {np.dtype("<i4")}
    verify_corpus(tmp_path / "out")
    made = merge_shards(tmp_path / "out", tmp_path / "one")
    assert (tmp_path / "one.bin").stat().st_size == 4 * made.tokens
