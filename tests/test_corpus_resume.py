"""Runs that are killed, stopped, starved or doubled: whatever happens, running again gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zhuzi
from corpus_tools import shards_and_manifest, write_lines
from zhuzi.errors import OutputExistsError

SHARD_BYTES = 1 << 20


@pytest.fixture(scope="module")
def text(chinese_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 MB: twenty tasks."""
    rng = random.Random(1)
    texts = [t for _ in range(160) for t in rng.sample(chinese_texts, len(chinese_texts))]
    return write_lines(tmp_path_factory.mktemp("text") / "zh.jsonl", texts)


@pytest.fixture(scope="module")
def whole(text: Path, merged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    made = zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES, num_threads=1)
    assert made.tasks >= 20
    return shards_and_manifest(out)


def command(text: Path | str, merged: Path, out: Path, *more: str) -> list[str]:
    zhuzi = [sys.executable, "-c", "from zhuzi.cli import main; main()"]
    line = [*zhuzi, "corpus", "encode", str(text), "--tokenizer", str(merged)]
    return [*line, "--out", str(out), "--shard-bytes", str(SHARD_BYTES), *more]


def new_seed() -> int:
    """A seed drawn anew, which a failing test shows."""
    seed = random.randrange(1 << 30)
    sys.stdout.write(f"seed {seed}\n")
    return seed


def run(*line: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def kill_at_random(
    line: list[str], out: Path, rng: random.Random, longest: float, signals: list[signal.Signals]
) -> int:
    """Start the command and end it by signals until it comes through; how often it was ended.

    Mostly some time after it has committed something more (so that this ends, and Python's own start does not
    eat the kills), sometimes at any time.
    """
    kills = 0
    while True:
        done = commits(out)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        early = rng.random() < 0.2
        while not early and process.poll() is None and commits(out) == done:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, longest))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if early else rng.choice(signals))
            kills += 1
        _, errors = process.communicate(timeout=60)
        if (out / "manifest.json").exists():
            return kills  # all is done, also where the kill came just before the end
        assert process.returncode != 0
        assert "Traceback" not in errors and (
            process.returncode < 0 or (process.returncode > 128 and "interrupted" in errors)
        ), errors


def commits(out: Path) -> int:
    return len(list((out / ".commits").glob("*.json")))


def test_kills_lose_nothing(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    seed = new_seed()
    out = tmp_path / "out"
    kill_at_random(
        command(text, merged, out, "--threads", "2"), out, random.Random(seed), 0.1, [signal.SIGKILL]
    )
    assert shards_and_manifest(out) == whole
    again = run(*command(text, merged, out))
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.mark.slow
def test_twenty_kills_lose_nothing(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    seed = new_seed()
    rng = random.Random(seed)
    kills, rounds = 0, 0
    while kills < 20:
        out = tmp_path / f"out{rounds}"
        threads = str(rng.choice([1, 2, 5]))
        kills += kill_at_random(
            command(text, merged, out, "--threads", threads),
            out, rng, 0.1, [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT],
        )  # fmt: skip
        rounds += 1
        assert shards_and_manifest(out) == whole
    sys.stdout.write(f"{kills} kills in {rounds} corpora\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once(number: signal.Signals, merged: Path, tmp_path: Path) -> None:
    """Also while nothing comes through a pipe."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        command("-", merged, out), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write('{"text": "好"}\n')
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not (out / "plan.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(number)
    process.wait(timeout=60)
    assert time.monotonic() - started < 5
    assert process.returncode != 0
    assert not out.exists(), "an unfinished run on a pipe leaves nothing"


def test_a_disk_that_is_full(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: no shard, then all of them, fit below it."""
    out = tmp_path / "out"
    line = command(text, merged, out)

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    starved = run(*line, preexec_fn=small)
    assert starved.returncode == 1 and "File too large" in starved.stderr, starved.stderr
    assert not out.exists(), "nothing was committed, nothing stays"
    assert run(*line).returncode == 0
    assert shards_and_manifest(out) == whole


@pytest.mark.slow
def test_a_really_full_disk(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("may not mount a small tmpfs here")
    try:
        line = command(text, merged, disk / "out")
        starved = run(*line)
        assert starved.returncode == 1 and "No space left on device" in starved.stderr, starved.stderr
        assert not (disk / "out" / "manifest.json").exists()
        done = list((disk / "out" / ".commits").iterdir())
        assert done, "some tasks were committed"
        assert not list((disk / "out").glob(".tmp-*")), "what was not is gone"
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        again = run(*line)
        assert again.returncode == 0 and f"{len(done)} of" in again.stdout, again.stdout
        assert shards_and_manifest(disk / "out") == whole
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def begin(text: Path, merged: Path, out: Path) -> None:
    """An unfinished run: a third of the tasks are done."""
    zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES, part=(1, 3))


def test_a_resume_says_what_differs(
    text: Path, whole: dict[str, bytes], merged: Path, base_model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    copy = tmp_path / "zh.jsonl"
    copy.write_bytes(text.read_bytes())
    begin(copy, merged, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    base = zhuzi.Tokenizer.from_sentencepiece(base_model_file)
    other = write_lines(tmp_path / "other.jsonl", ["好"])
    for inputs, tokenizer, options, reason in [
        ([copy], merged, {"eos": False}, r"the option eos \(false, it was true\)"),
        ([copy], merged, {"field": "content"}, "the option fields"),
        ([copy], merged, {"shard_bytes": 2}, r"the option shard-bytes \(2, it was 1048576\)"),
        ([copy], base, {}, "the tokenizer"),
        ([copy, other], merged, {}, r"the input .*other\.jsonl, which is new"),
        ([other], merged, {}, r"zh\.jsonl, which is missing now"),
    ]:
        with pytest.raises(OutputExistsError, match=f"unfinished run of another command.*{reason}"):
            zhuzi.encode_corpus(inputs, tokenizer, out, **{"shard_bytes": SHARD_BYTES, **options})  # type: ignore[arg-type]
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before, "a refusal changes nothing"

    old = copy.stat()
    os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    with pytest.raises(OutputExistsError, match=r"zh\.jsonl, which was changed since"):
        zhuzi.encode_corpus([copy], merged, out, shard_bytes=SHARD_BYTES)
    with copy.open("a") as file:
        file.write('{"text": "好"}\n')
    with pytest.raises(OutputExistsError, match=r"zh\.jsonl \(\d+ bytes, it had \d+\)"):
        zhuzi.encode_corpus([copy], merged, out, shard_bytes=SHARD_BYTES)
    os.truncate(copy, old.st_size)
    os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns))
    made = zhuzi.encode_corpus([copy], merged, out, shard_bytes=SHARD_BYTES)
    assert made.outcome == "finished" and 0 < made.resumed < made.tasks
    shards = {name: data for name, data in shards_and_manifest(out).items() if name.startswith("shard")}
    assert shards == {name: data for name, data in whole.items() if name.startswith("shard")}
    assert zhuzi.encode_corpus([copy], merged, out, shard_bytes=SHARD_BYTES).outcome == "already"


def test_overwrite(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "foreign").write_text("x")
    with pytest.raises(OutputExistsError, match=r"already holds something \(foreign\)"):
        zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES)
    with pytest.raises(OutputExistsError, match="not written by zhuzi"):
        zhuzi.encode_corpus([text], merged, out, overwrite=True)
    (out / "foreign").unlink()
    zhuzi.encode_corpus([text], merged, out, eos=False)
    made = zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES, overwrite=True)
    assert (made.outcome, made.resumed) == ("finished", 0)
    assert shards_and_manifest(out) == whole
    # An unfinished run of the same request is gone on with; a finished one is made anew.
    begin(text, merged, tmp_path / "begun")
    made = zhuzi.encode_corpus([text], merged, tmp_path / "begun", shard_bytes=SHARD_BYTES, overwrite=True)
    assert made.resumed > 0
    assert shards_and_manifest(tmp_path / "begun") == whole
    made = zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES, overwrite=True)
    assert (made.outcome, made.resumed) == ("finished", 0)
    with pytest.raises(
        (OutputExistsError, ValueError), match=r"holds .*which is read here|lies in the output"
    ):
        zhuzi.encode_corpus([text], merged, text.parent, overwrite=True)
    assert text.exists()


def test_a_lost_shard_is_made_again(
    text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES)
    (out / "shard-00002.bin").unlink()
    os.truncate(out / "shard-00004.idx", 50)
    made = zhuzi.encode_corpus([text], merged, out, shard_bytes=SHARD_BYTES)
    assert (made.outcome, made.resumed) == ("finished", made.tasks - 2)
    assert shards_and_manifest(out) == whole


def test_parts(text: Path, whole: dict[str, bytes], merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = command(text, merged, out, "--threads", "1")
    parts = [
        subprocess.Popen([*line, "--task", f"{part}/3"], stdout=subprocess.PIPE, text=True) for part in (0, 2)
    ]
    for part in parts:
        said, _ = part.communicate(timeout=60)
        assert part.returncode == 0 and "without --task seals" in said
    assert not (out / "manifest.json").exists()
    sealed = run(*line)
    assert sealed.returncode == 0 and "done before: " in sealed.stdout
    assert shards_and_manifest(out) == whole
    for more, reason in [
        (["--task", "3/3"], "I from 0"),
        (["--task", "0/3", "--dedup"], "duplicates needs to know all documents before"),
        (["--task", "0/3", "--limit", "5"], "a limit counts all documents before"),
        (["--task", "0/3", "--overwrite"], "--overwrite with --task"),
    ]:
        refused = run(*line, *more)
        assert refused.returncode != 0 and reason in refused.stderr


def test_append(text: Path, merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_lines(folder / "m.jsonl", chinese_texts)
    write_lines(folder / "z.jsonl", ["旧"])
    first = zhuzi.encode_corpus([folder], merged, out)
    old = shards_and_manifest(out)
    write_lines(folder / "a.jsonl", ["新", "铸字"])
    with pytest.raises(OutputExistsError, match=r"a\.jsonl, which is new"):
        zhuzi.encode_corpus([folder], merged, out)
    made = zhuzi.encode_corpus([folder], merged, out, append=True)
    assert (made.documents, made.shards, made.resumed) == (first.documents + 2, 2, 1)
    new = shards_and_manifest(out)
    assert new["shard-00000.bin"] == old["shard-00000.bin"]
    tokenizer = zhuzi.Tokenizer.from_dir(merged)
    documents = list(zhuzi.Corpus(out))
    wanted = [tokenizer.encode(t, add_eos=True) for t in ("旧", "新", "铸字")]
    assert [d.tolist() for d in documents[-3:]] == wanted, "new files stand behind all others"
    assert zhuzi.encode_corpus([folder], merged, out, append=True).outcome == "already"
    assert zhuzi.encode_corpus([folder], merged, out).outcome == "already"
    # Only the new file may be named, and a duplicate of an old document is one.
    with pytest.raises(OutputExistsError, match="the option dedup"):
        zhuzi.encode_corpus([folder], merged, out, append=True, dedup=True)
    out = tmp_path / "dedup"
    zhuzi.encode_corpus([folder / "a.jsonl"], merged, out, dedup=True)
    more = write_lines(tmp_path / "more.jsonl", ["铸字", "再", "再"])
    made = zhuzi.encode_corpus([more], merged, out, append=True, dedup=True)
    assert (made.documents, made.duplicate_documents) == (3, 2)
    assert [s["path"] for s in json.loads((out / "manifest.json").read_text())["sources"]] == [
        str(folder / "a.jsonl"),
        str(more),
    ]
