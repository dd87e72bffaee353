"""Corpus encoding: order, exactness, Megatron's own reader, and bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import zhuzi
from corpus_tools import read_back, shards_and_manifest, write_lines
from zhuzi import Corpus, Tokenizer
from zhuzi.errors import InputError, OutputExistsError


def test_documents_are_sentencepieces_in_order(
    merged: Path, chinese_file: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    made = zhuzi.encode_corpus([chinese_file], merged, tmp_path / "out")
    peer = sentencepiece.SentencePieceProcessor(model_file=str(merged / "tokenizer.model"))
    wanted = [[*ids, 2] for ids in peer.encode(chinese_texts)]
    assert read_back(made.folder) == wanted
    assert (made.documents, made.tokens) == (len(wanted), sum(map(len, wanted)))
    assert made.characters == sum(map(len, chinese_texts))
    assert made.text_bytes == sum(len(t.encode()) for t in chinese_texts)


def test_megatron_reads_the_shards(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    text = write_lines(tmp_path / "zh.jsonl", chinese_texts * 40)  # 5 MB: more than one block
    made = zhuzi.encode_corpus([text], merged, tmp_path / "out", shard_bytes=1)
    assert made.shards > 1, "shards end at blocks, and names sort in document order"
    tokenizer = Tokenizer.from_dir(merged)
    wanted = [[*ids, 2] for ids in tokenizer.encode_batch(chinese_texts).tolist()] * 40
    got: list[list[int]] = []
    for prefix in sorted(p.with_suffix("") for p in made.folder.glob("*.idx")):
        dataset = megatron.IndexedDataset(str(prefix))
        assert dataset.index.dtype == np.uint16
        assert dataset.document_indices.tolist() == list(range(len(dataset) + 1))
        got += [dataset[i].tolist() for i in range(len(dataset))]
    assert got == wanted


def test_a_megatron_builder_writes_the_same_bytes(merged: Path, chinese_file: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    made = zhuzi.encode_corpus([chinese_file], merged, tmp_path / "out")
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "peer.bin"), dtype=np.uint16)
    for document in Corpus(made.folder):
        builder.add_document(torch.from_numpy(document.astype(np.int64)), [len(document)])
    builder.finalize(str(tmp_path / "peer.idx"))
    for kind in ("bin", "idx"):
        ours = (made.folder / f"shard-00000.{kind}").read_bytes()
        assert ours == (tmp_path / f"peer.{kind}").read_bytes()


def test_bytes_do_not_depend_on_threads(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    inputs = [write_lines(tmp_path / f"{n}.jsonl", chinese_texts * n) for n in (30, 1, 50)]
    seen = set()
    for threads in (1, 2, 5):
        out = tmp_path / f"out{threads}"
        zhuzi.encode_corpus(inputs, merged, out, num_threads=threads, shard_bytes=8 << 20)
        seen.add(tuple(shards_and_manifest(out).items()))
    assert len(seen) == 1


def test_order_of_inputs(merged: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    folder = tmp_path / "in"
    for name in ("b.jsonl", "a/z.jsonl", "a.jsonl", "B.jsonl", "é.jsonl", "a/deep/x.jsonl"):
        write_lines(folder / name, [name])
    (folder / "ignored.csv").write_text("x")
    (tmp_path / "last.txt").write_text("last")
    by_path_bytes = ["B.jsonl", "a.jsonl", "a/deep/x.jsonl", "a/z.jsonl", "b.jsonl", "é.jsonl"]
    cases = {
        "folder": ([folder], by_path_bytes),
        "pattern": ([f"{folder}/*.jsonl"], ["B.jsonl", "a.jsonl", "b.jsonl", "é.jsonl"]),
        "as given": ([tmp_path / "last.txt", folder / "b.jsonl"], ["last", "b.jsonl"]),
    }
    for name, (inputs, wanted) in cases.items():
        zhuzi.encode_corpus(inputs, merged, tmp_path / name, eos=False)
        assert read_back(tmp_path / name) == [tokenizer.encode(text) for text in wanted], name


def test_lines(merged: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    (tmp_path / "a.txt").write_bytes("\ufeff一\r\n\n二 \r\r\n  \n三\x0b四\u2028五".encode())
    (tmp_path / "b.jsonl").write_bytes('\ufeff{"text": "六\\n"}\r\n\n {"text": ""} \n{"text": "七"}'.encode())
    made = zhuzi.encode_corpus([tmp_path / "a.txt", tmp_path / "b.jsonl"], merged, tmp_path / "out")
    wanted = ["一", "二 \r", "  ", "三\x0b四\u2028五", "六\n", "七"]
    assert read_back(made.folder) == [tokenizer.encode(text, add_eos=True) for text in wanted]
    assert made.empty_documents == 3
    made = zhuzi.encode_corpus([tmp_path / "b.jsonl"], merged, tmp_path / "no-eos", eos=False)
    assert read_back(made.folder) == [tokenizer.encode("六\n"), tokenizer.encode("七")]
    assert json.loads((made.folder / "manifest.json").read_text())["eos"] is False


def test_a_line_longer_than_a_block(merged: Path, tmp_path: Path) -> None:
    text = "人工智能 and so on " * 500_000  # 14 MB
    (tmp_path / "long.txt").write_text(f"一\n{text}\n二\n")
    made = zhuzi.encode_corpus([tmp_path / "long.txt"], merged, tmp_path / "out")
    tokenizer = Tokenizer.from_dir(merged)
    assert read_back(made.folder) == [tokenizer.encode(t, add_eos=True) for t in ("一", text, "二")]


def test_many_files(merged: Path, tmp_path: Path) -> None:
    for n in range(200):
        write_lines(tmp_path / "in" / f"{n:03}.jsonl", [f"document {n}"])
    made = zhuzi.encode_corpus([tmp_path / "in"], merged, tmp_path / "out", num_threads=3)
    assert made.documents == 200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "no JSON object"),
        (b'["a"]', "no JSON object"),
        (b'{"text": 5}', "the field `text` holds a number, no text"),
        (b'{"content": "x"}', "no field `text`"),
        (b'{"text": "x"', "no JSON object"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_record_is_named(line: bytes, reason: str, merged: Path, tmp_path: Path) -> None:
    text = tmp_path / "in.jsonl"
    first = '{"text": "好"}\n'.encode()
    text.write_bytes(first * 3 + line + b"\n" + b"bad\n" * 5)
    with pytest.raises(InputError, match=rf"in\.jsonl: line 4 \(byte {3 * len(first)}\): .*{reason}"):
        zhuzi.encode_corpus([text], merged, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"], "nothing half-written stays"


def test_the_first_bad_record_in_document_order_is_named(merged: Path, tmp_path: Path) -> None:
    good = '{"text": "' + "好" * 2000 + '"}\n'
    text = tmp_path / "in.jsonl"
    text.write_text(good * 2000 + "bad\n" + good * 1000 + "worse\n")
    for threads in (1, 4):
        with pytest.raises(InputError, match="line 2001 "):
            zhuzi.encode_corpus([text], merged, tmp_path / "out", num_threads=threads)


def test_inputs_that_cannot_be(merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.csv").write_text("x")
    for inputs, error, reason in [
        ([], ValueError, "no input files"),
        ([tmp_path / "missing.txt"], FileNotFoundError, r"missing\.txt"),
        ([tmp_path / "empty.txt"], ValueError, "no document"),
        ([tmp_path / "folder"], ValueError, "no file of a kind we read in this folder; .jsonl"),
        ([tmp_path / "x.csv"], ValueError, "not a kind of file"),
        ([f"{tmp_path}/*.jsonl"], ValueError, "matches no file"),
    ]:
        with pytest.raises(error, match=reason):
            zhuzi.encode_corpus(inputs, merged, out)
        assert not out.exists()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    zhuzi.encode_corpus([tmp_path / "a.txt"], merged, out)
    with pytest.raises(OutputExistsError, match=r"a\.txt, which is missing now"):
        zhuzi.encode_corpus([tmp_path / "b.txt"], merged, out)


def test_progress_and_stopping(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    text = write_lines(tmp_path / "zh.jsonl", chinese_texts * 100)
    told: list[tuple[int, int, int, int]] = []
    made = zhuzi.encode_corpus([text], merged, tmp_path / "out", progress=lambda *at: told.append(at))
    size = text.stat().st_size
    assert told[-1] == (size, size, made.documents, made.tokens)

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zhuzi.encode_corpus([text], merged, tmp_path / "stopped", progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "zh.jsonl"]
