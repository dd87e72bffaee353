"""Training a donor."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sentencepiece

import zhuzi
from zhuzi.errors import InputError, OutputExistsError, VocabSizeError
from zhuzi.vocab import TrainingProgress
from zhuzi.vocab.progress import trained_share
from zhuzi.vocab.sample import LINE_BYTES, Sample


def test_a_sample_is_the_same_by_blocks(chinese_texts: list[str]) -> None:
    texts = [*chinese_texts[:300], "x\u2585y", "", "长" * 3000, *chinese_texts[300:]]
    for limit in (60_000, 10_000_000):
        one, other = Sample(limit, 3), Sample(limit, 3)
        for text in texts:
            one.add(text)
        for at in range(0, len(texts), 100):
            other.add_all(texts[at : at + 100])
        for sample in (one, other):
            sample.close()
        assert vars(one).keys() == vars(other).keys()
        assert {k: v for k, v in vars(one).items() if k != "_draw"} == {
            k: v for k, v in vars(other).items() if k != "_draw"
        }


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_training(kind: str, suffix: str, chinese_texts: list[str], tmp_path: Path) -> None:
    text = tmp_path / f"zh.{suffix}"
    if suffix == "txt":
        text.write_text("\n".join(t.replace("\n", " ") for t in chinese_texts))
    else:
        text.write_text("".join(json.dumps({"content": t}) + "\n" for t in chinese_texts))
    made = zhuzi.train_vocab(
        [text], tmp_path / "m.model", vocab_size=3000, model_type=kind, field="content"  # type: ignore[arg-type]
    )  # fmt: skip
    assert (made.pieces, made.documents) == (3000, len(chinese_texts))
    peer = sentencepiece.SentencePieceProcessor(model_file=str(made.path))
    assert peer.get_piece_size() == 3000
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "m.model", "m.model.zhuzi.json", text.name,
    ]  # fmt: skip
    with pytest.raises(OutputExistsError):
        zhuzi.train_vocab([text], tmp_path / "m.model", vocab_size=3000, field="content")


def test_training_reads_what_encoding_reads(chinese_texts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    records = [{"meta": {"zh": text}} for text in chinese_texts]
    third = len(records) // 3
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records[:third]))
    (folder / "b.json").write_text(json.dumps(records[third:]))
    (folder / "c.ndjson").write_text('{"meta": null}\n{"meta": {"zh": ""}}\n')
    (folder / "d.csv").write_text("1,2\n")
    made = zhuzi.train_vocab(
        folder, tmp_path / "m.model", vocab_size=3000, field="meta.zh", on_error="skip"
    )  # fmt: skip
    assert (made.documents, made.bad_records, made.empty_documents) == (len(records), 1, 1)
    assert len(made.notes) == 3 and any("csv" in note for note in made.notes)
    command = [sys.executable, "-m", "zhuzi", "vocab", "train", "-", "--stdin", "txt", "--vocab-size", "3000"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "n.model"],
        input="\n".join(chinese_texts).encode(),
        capture_output=True,
    )
    assert done.returncode == 0 and done.stdout.startswith(str(tmp_path / "n.model: 3,000 pieces").encode())


def test_training_that_cannot_be(chinese_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "m" / "m.model"
    with pytest.raises(VocabSizeError, match="at most") as too_high:
        zhuzi.train_vocab([chinese_file], out, vocab_size=50_000)
    with pytest.raises(VocabSizeError, match="at least that") as too_low:
        zhuzi.train_vocab([chinese_file], out, vocab_size=300)
    assert 300 < (too_low.value.limit or 0) < (too_high.value.limit or 0) < 50_000
    assert "\n" not in str(too_high.value) + str(too_low.value)
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(InputError, match="no text to train on"):
        zhuzi.train_vocab([empty], out)
    with pytest.raises(FileNotFoundError):
        zhuzi.train_vocab([tmp_path / "missing.txt"], out)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "好"}\n{"txt": "好"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl: line 2"):
        zhuzi.train_vocab([bad], out)
    for text in (" \n\t\n", "\u2585\n", "\u2581\n"):
        (tmp_path / "blank.txt").write_text(text)
        with pytest.raises(InputError, match="no text to train on"):
            zhuzi.train_vocab([tmp_path / "blank.txt"], out)
    for wrong in ({"sample_bytes": 10}, {"vocab_size": 3}, {"model_type": "word"}, {"character_coverage": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            zhuzi.train_vocab([chinese_file], out, **wrong)  # type: ignore[arg-type]
    assert not out.parent.exists()


def test_nothing_is_dropped_in_silence(chinese_texts: list[str], tmp_path: Path) -> None:
    # One line of 1.5 MB, and a line with the character for which SentencePiece drops whole lines.
    novel = "".join(chinese_texts).replace("\n", "")
    novel = (novel * (1_500_000 // len(novel.encode()) + 1)).replace("龘", "")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": novel}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "龘靐\u2585齉\n" * 500}) + "\n")
    made = zhuzi.train_vocab(
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "m.model", vocab_size=4000, model_type="bpe"
    )
    assert (made.documents, made.cut_lines, made.reserved_characters) == (2, 1, 500)
    assert not made.sampled and made.used_characters == made.characters == len(novel) + 2500
    peer = sentencepiece.SentencePieceProcessor(model_file=str(made.path))
    pieces = "".join(peer.id_to_piece(i) for i in range(peer.get_piece_size()))
    assert set("龘靐齉天的") <= set(pieces) and "\u2585" not in pieces


def test_long_lines_are_cut_behind_sentences() -> None:
    sample = Sample(10_000_000, seed=1)
    lines = ["好" * 990 + "。是" * 300, "x" * 10_000, ("word " * 2000).strip(), "𠀀" * 5000, "", "short"]
    sample.add("\n".join(lines))
    sample.add("天" * 1000 + "\n" + "地" * 1001)
    sample.close()
    parts = [bytes(part).decode() for part in sample.take()]
    pieces = [line for part in parts for line in part.split("\n")]
    assert "".join(pieces) == "".join(lines) + "天" * 1000 + "地" * 1001
    assert max(len(piece.encode()) for piece in pieces) <= LINE_BYTES
    assert sample.cut_lines == 5
    assert pieces[0].endswith("。")
    assert all(piece.endswith(" ") for piece in pieces if piece.startswith("word") and len(piece) > 2000)


def test_a_sample_takes_each_byte_alike_and_depends_on_the_seed_alone() -> None:
    documents = [f"{i:06}" + "长" * (i % 7) * 150 for i in range(4000)]  # from 6 bytes to 2.7 KB
    total = sum(len(document.encode()) for document in documents)

    def taken(documents: list[str], seed: int) -> set[str]:
        sample = Sample(total // 4, seed)
        for document in documents:
            sample.add(document)
        sample.close()
        assert sample.bytes == total and total // 4 - LINE_BYTES < sample.used_bytes <= total // 4
        return {bytes(part).decode() for part in sample.take()}

    one = taken(documents, 1)
    assert one == taken(documents, 1) != taken(documents, 2)
    # A quarter of every kind and of every region, up to chance (4 standard deviations).
    for group in [documents[i::7] for i in range(7)] + [documents[i : i + 500] for i in range(0, 4000, 500)]:
        share = sum(document in one for document in group) / len(group)
        assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(group)) ** 0.5


def test_training_on_a_sample(chinese_texts: list[str], tmp_path: Path) -> None:
    text = tmp_path / "zh.jsonl"
    repeated = [f"{text}{i}" for i in range(8) for text in chinese_texts]
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in repeated))
    seen: list[TrainingProgress] = []

    def train(name: str, **options: int) -> zhuzi.vocab.TrainedVocab:
        return zhuzi.train_vocab(
            text, tmp_path / name, vocab_size=3000, sample_bytes=200_000, progress=seen.append, **options
        )

    made, again, other = train("a.model"), train("b.model"), train("c.model", seed=7)
    assert made.sampled and 190_000 < made.used_bytes <= 200_000 < made.bytes
    assert made.used_documents < made.documents == len(repeated)
    assert made.path.read_bytes() == again.path.read_bytes() != other.path.read_bytes()
    assert {state.phase for state in seen} == {"reading", "training"}
    with pytest.raises(ZeroDivisionError):
        zhuzi.train_vocab(text, tmp_path / "d.model", vocab_size=3000, progress=lambda _: 1 / 0)
    assert not (tmp_path / "d.model").exists()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_share_of_training_is_in_the_log_of_sentencepiece(
    kind: str, chinese_texts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "zh.txt").write_text("\n".join(chinese_texts))
    code = (
        "import io, sys, sentencepiece; sentencepiece.SentencePieceTrainer.train("
        "sentence_iterator=open(sys.argv[1]), model_writer=io.BytesIO(), model_type=sys.argv[2], "
        "vocab_size=3000, minloglevel=0, max_sentence_length=10**6)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "zh.txt"), kind]
    log = subprocess.run(command, capture_output=True, check=True).stderr
    lines = log.splitlines(keepends=True)
    shares = [trained_share(b"".join(lines[:n]), 3000) for n in range(len(lines) + 1)]
    known = [share for share in shares if share is not None]
    assert shares[0] is None and known == sorted(known)
    assert 0 <= known[0] < 0.7 < known[-1] <= 1


def test_training_in_a_script_without_a_guard(chinese_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import zhuzi\nmade = zhuzi.train_vocab({str(chinese_file)!r}, 'm.model', vocab_size=3000)\n"
        "print(made.pieces)\n"
    )
    (tmp_path / "sentencepiece.py").write_text("raise SystemExit('not the one we mean')")
    path = os.pathsep.join([*sys.path, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-P", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
    )
    assert (done.stdout, done.stderr) == (b"3000\n", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_training_at_once(number: signal.Signals, tmp_path: Path) -> None:
    text = tmp_path / "in" / "zh.jsonl"
    text.parent.mkdir()
    # Text of random characters takes the trainer long.
    draw = random.Random(0).random
    lines = ("".join(chr(0x4E00 + int(3000 * draw() ** 3)) for _ in range(100)) for _ in range(8000))
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    out = tmp_path / "out" / "m.model"
    command = [sys.executable, "-m", "zhuzi", "vocab", "train", text, "--out", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        trainer = child_of(process)
        process.send_signal(number)
        began = time.monotonic()
        process.wait(60)
        assert time.monotonic() - began < 5
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    lines = [line for line in said.splitlines() if line and not line.startswith(("reading ", "training "))]
    assert lines == ([] if number == signal.SIGKILL else ["zhuzi: interrupted"])
    assert not out.parent.exists()
    deadline = time.monotonic() + 5
    while alive(trainer) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(trainer)


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The id of its first child process, when there is one."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for found in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(found.read_text().rpartition(")")[2].split()[1]) == process.pid:
                    time.sleep(1)  # by then it has read the text
                    return int(found.parent.name)
        time.sleep(0.05)
    raise AssertionError(f"no child process; exit code {process.poll()}")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be counted does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
