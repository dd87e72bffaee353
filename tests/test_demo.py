"""The demo: the whole road, short here, at its full length in the slow test."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the demo needs the extra `demo`")
pytest.importorskip("mistral_common", reason="the demo needs the extra `demo`")
if find_spec("jieba") is None:  # importing it takes a second
    pytest.skip("the demo needs the extra `demo`", allow_module_level=True)

from test_pages import require_self_contained
from zhuzi.demo import run_demo, sample, settings
from zhuzi.demo.road import DemoResult
from zhuzi.demo.state import LAST, MADE, State, open_state
from zhuzi.errors import OutputExistsError
from zhuzi.tokenizer import Tokenizer

MODELS = ["base model", "extended", "stage 1", "stage 2, merged", "tuned, merged"]

SHORT = """
from zhuzi.demo import sample, settings
sample.MEASURED_BYTES = 1500
settings.SEQUENCE_LENGTH = 128
settings.BASE["steps"] = 3
for stage in settings.STAGES.values():
    stage |= {"steps": 3, "save_every": 1}
"""

Inputs = dict[str, Path]


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """Three steps where the demo has a hundred, as in the processes that a test starts with `SHORT`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "MEASURED_BYTES", sample.MEASURED_BYTES)  # both put back at the end
        patch.setattr(settings, "SEQUENCE_LENGTH", settings.SEQUENCE_LENGTH)
        for values in (settings.BASE, *settings.STAGES.values()):
            for key in values:
                patch.setitem(values, key, values[key])
        exec(SHORT, {})
        yield


@pytest.fixture(scope="module")
def inputs(mistral: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Files of a user's own."""
    folder = tmp_path_factory.mktemp("own")
    zh = [json.loads(line)["text"] for line in _built_in("zh.jsonl").splitlines()]
    records = [{"instruction": f"问题{i}", "input": "", "output": f"答案{i}"} for i in range(12)]
    records += [{"instruction": "未答", "output": " "}, {**records[0], "id": "1"}]
    return {
        "corpus": sample.write_jsonl(folder / "mine.jsonl", [*zh[:40], "", " \n"]),
        "instructions": sample.write_records(folder / "mine.json", records),
        "base_tokenizer": mistral / "mistral_instruct_tokenizer_240216.model.v2",
    }


@pytest.fixture(scope="module")
def made(short: None, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """A demo that nothing interrupted."""
    lines: list[str] = []
    result = run_demo(tmp_path_factory.mktemp("demo") / "out", **inputs, say=lines.append)
    assert [line[:3] for line in lines if line[:1].isdigit()] == [f"{i}/8" for i in range(1, 9)]
    assert len(lines) >= 8 + len(MODELS)
    assert [line for line in lines if line.startswith(str(inputs["corpus"].parent))] == result.facts["notes"]
    return result


def _built_in(name: str) -> str:
    return (Path(sample.__file__).parent / "data" / name).read_text("utf-8")


def test_the_sample() -> None:
    whole = sample.Sample.read(None, None, None)
    for split in (whole.zh, whole.en):
        texts = split.train + split.held_out
        assert sum(len(t.encode()) for t in texts) >= 60_000
        assert len(set(texts)) == len(texts)
        assert len(split.held_out) == len(texts) // 10
    learnt, held = whole.records, whole.held_records
    assert len(learnt) + len(held) >= 100
    assert len(held) == (len(learnt) + len(held)) // 10
    assert not {r["instruction"] + r["input"] for r in held} & {r["instruction"] + r["input"] for r in learnt}


def test_the_road_on_own_files(made: DemoResult, inputs: Inputs) -> None:
    """Every step runs on the user's files; the report shows what happened and needs nothing beside it."""
    facts = made.facts
    assert [entry["name"] for entry in facts["measured"]] == MODELS
    assert all(merge["difference"] <= 1e-4 for merge in facts["merges"].values())
    assert all(stage["frozen_checked"] > 30 for stage in facts["stages"].values())
    assert facts["stages"]["stage1"]["trainable"] == facts["vocabulary"]["vocab_size"] * 128
    html = made.report.read_text("utf-8")
    assert html.count("<svg") == 5
    require_self_contained(html)
    assert "Answers to held-out instructions" in html and "对留出指令的回答" in html
    for told in (
        "8: as long as the text itself",
        "mean of 11",
        "The published sentence (LLaMA: 35 tokens",
        "A held-out sentence of median gain",
        "the package jieba",
        "above 1e-4 the merge stops",
    ):
        assert told in html
    assert html.count('class="sample"') == 2 * len(MODELS)
    assert "zhuzi corpus stats" in html and "zhuzi chat" in html
    assert html.count("not asked") == 3 and facts["asked"][0]["instruction"] in html
    assert all(len(entry["answers"]) in (0, len(facts["asked"])) for entry in facts["measured"])
    for sentence in (facts["vocabulary"]["example"], facts["vocabulary"]["median"]):
        assert len(sentence["after"]) == len(sentence["kinds"]) < len(sentence["before"])
    assert facts["command"][:3] == ["zhuzi", "demo", "--out"] and "--base-tokenizer" in facts["command"]
    assert str(inputs["corpus"]) in html
    for note in ("left out: 1 document without characters", "left out: 1 document of white space only"):
        assert f"{inputs['corpus']}: {note}" in html
    for note in (
        "1 record left out: the output is empty",
        "keys that tuning does not read, with their records: id (1)",
    ):
        assert f"{inputs['instructions']}: {note}" in html
    for model in MODELS:
        assert model in html
        assert model in made._repr_html_()
    assert re.search(r"report\.html', Chinese \d\.\d+ to \d\.\d+ bits per byte", repr(made))

    question = subprocess.run(
        [
            *[sys.executable, "-c", "from zhuzi.cli import main; main()"],
            *["chat", "--model", str(made.model), "--max-new-tokens", "4", "--temperature", "0"],
        ],
        input="你好",
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert question.returncode == 0, question.stderr


def test_a_demo_stopped_anywhere_goes_on(made: DemoResult, inputs: Inputs, tmp_path: Path) -> None:
    """Stopped at every line it prints, killed while it trains: the same figures, and nothing done twice."""
    out, lines = tmp_path / "out", list[str]()

    def go_on_until(last: str) -> None:
        while not (lines and lines[-1].startswith(last)):
            with pytest.raises(KeyboardInterrupt):
                run_demo(out, **inputs, say=_stop_at_new(lines))

    go_on_until("6/8")
    command = [sys.executable, "-c", SHORT + "from zhuzi.cli import main; main()", "demo", "--out", str(out)]
    for option, path in inputs.items():
        command += [f"--{option.replace('_', '-')}", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        while not any((out / "stage2" / "checkpoints").glob("checkpoint-*")):
            assert running.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.02)
        running.send_signal(signal.SIGSTOP)
        with pytest.raises(OutputExistsError, match="another process"):
            run_demo(out, **inputs)
        running.send_signal(signal.SIGKILL)
    go_on_until("8/8")
    again = run_demo(out, **inputs)
    assert _figures(again) == _figures(made)
    assert len([line for line in lines if line[:1].isdigit()]) == 8, "each step begins once"
    assert not list(out.glob(".*partial")), "nothing is left of what was killed"

    before = (out / "demo.json").read_bytes()
    told: list[str] = []
    assert _figures(run_demo(out, **inputs, say=told.append)) == _figures(made)
    assert "finished" in told[-1]
    assert (out / "demo.json").read_bytes() == before


def _stop_at_new(lines: list[str]) -> Callable[[str], None]:
    """Takes the lines of a demo; the first step or outcome not seen before interrupts it."""

    def say(line: str) -> None:
        if re.match(r"\d/8| {5}", line) and line not in lines:
            lines.append(line)
            raise KeyboardInterrupt

    return say


def _figures(result: DemoResult) -> Any:
    """All figures but the seconds, wherever the folder lies."""

    def without_seconds(value: Any) -> Any:
        if isinstance(value, list):
            return [without_seconds(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {key: without_seconds(item) for key, item in value.items() if key not in ("seconds", "steps")}

    stored = json.loads((result.report.parent / "demo.json").read_text("utf-8"))
    assert stored == json.loads(json.dumps(result.facts))
    assert all(stage["recipe"]["steps"] == 3 for stage in stored["stages"].values())
    text = json.dumps(without_seconds(stored), ensure_ascii=False)
    return json.loads(text.replace(str(result.report.parent), "OUT"))


def test_a_demo_of_other_settings_is_refused(short: None, inputs: Inputs, tmp_path: Path) -> None:
    """The first setting that differs is named; inputs are told apart by what they hold, not by name."""
    own = {name: tmp_path / path.name for name, path in inputs.items()}
    for name, path in own.items():
        path.write_bytes(inputs[name].read_bytes())
    out = tmp_path / "out"
    begun: list[str] = []

    def begin(files: Inputs, **more: Any) -> None:
        begun.clear()
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, **files, **more, say=_stop_at_new(begun))

    begin(own)
    begin(inputs)
    with pytest.raises(OutputExistsError, match=r"seed differs \(42 there, 7 now\).*overwrite=True"):
        run_demo(out, **own, seed=7)
    with pytest.raises(OutputExistsError, match="base tokenizer differs"):
        run_demo(out, corpus=own["corpus"], instructions=own["instructions"])
    with own["corpus"].open("a") as file:
        file.write('{"text": "又一篇"}\n')
    with pytest.raises(OutputExistsError, match="corpus differs"):
        run_demo(out, **own)
    begin(inputs)
    begin(own, overwrite=True)
    begin(own)
    for damaged in ("{", "[]"):
        (out / "demo.json").write_text(damaged)
        with pytest.raises(OutputExistsError, match=r"demo\.json: damaged.*remove the folder yourself"):
            run_demo(out, **own)


def test_nothing_of_the_users_is_removed(tmp_path: Path) -> None:
    """Of an unfinished demo what a killed step left is removed, of a finished one nothing."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")

    def opened() -> AbstractContextManager[State]:
        return open_state(out, {"seed": 1}, overwrite=False, inputs=[])

    with opened():
        pass
    ours = [out / f".{name}.ab_45678.partial" for name in MADE] + [out / ".base.12345678.old"]
    theirs = [out / ".git", out / ".notes.20240131.old", out / ".base.partial"]
    for folder in [*ours, *theirs]:
        folder.mkdir()
        (folder / "inside").touch()
    (out / ".notes.md").touch()
    links = [out / ".tokenizer.12345678.partial", out / ".demo.json", out / "base"]
    for link, target in zip(links, (elsewhere, elsewhere / "precious", elsewhere), strict=True):
        link.symlink_to(target)
    with opened() as state:
        assert not any(path.exists() for path in ours)
        assert all((path / "inside").exists() for path in theirs)
        assert (out / ".notes.md").exists() and all(link.is_symlink() for link in links)
        with state.step("base model", ["base", "absent"]):
            assert not links[-1].is_symlink(), "the step makes it anew"
        with state.step(LAST, []):
            pass
    assert (elsewhere / "precious").read_text() == "kept"
    ours[0].mkdir()
    with opened() as state:
        assert state.finished and ours[0].exists()


def test_the_names_of_what_steps_make() -> None:
    from zhuzi.demo.steps import STEPS

    made = {name for step in STEPS for name in step.makes if not name.endswith(".zhuzi.json")}
    assert made <= set(MADE)


def test_the_counts_that_the_vocabulary_is_learnt_from(tmp_path: Path) -> None:
    from zhuzi.demo.words import write_counts

    told = write_counts(["今天 天气\n很好", "今天"], tmp_path / "counts.tsv")
    rows = [line.split("\t") for line in (tmp_path / "counts.tsv").read_text("utf-8").splitlines()]
    words, text = dict(rows[:-4]), rows[-4:]
    assert [word for word, _ in text] == ["今天", "天气", "很好", "今天"]
    assert int(words["的"]) > 100_000 and "T恤" not in words and all(int(n) >= 0 for _, n in rows)
    weight = int(text[0][1])
    listed = sum(len(word) * int(n) for word, n in words.items())
    assert weight * 8 == pytest.approx(listed / 5, rel=1e-3)
    assert told == {"word_list": f"jieba {version('jieba')}", "words": len(words), "text_counted": weight}


def test_what_a_model_wrote_is_shown_on_few_lines() -> None:
    from zhuzi.demo.report import _continued, compact

    assert "(ended at once)" in compact("") and "（立即结束）" in compact("")
    assert "(only white space)" in compact(" \n\n")
    assert compact("\n\n\na <b>\n\n\n\nc\n") == "a &lt;b&gt;⏎ c"
    assert "the</span>⏎ They" in _continued("the", "\n\nThey") and "the</span> a" in _continued("the", " a")
    assert re.fullmatch(r"好，，，… <span[^>]*>×40</span> 是", compact("好" + "，" * 40 + "是"))


def test_the_sentence_of_median_gain(base_model_file: Path, merged: Path) -> None:
    from zhuzi.demo.measure import median_sentence, segmented

    old, new = Tokenizer.from_sentencepiece(base_model_file), Tokenizer.from_dir(merged)
    texts = [json.loads(line)["text"] for line in _built_in("zh.jsonl").splitlines()]
    sentence = median_sentence(old, new, texts)
    shown = segmented(old, new, sentence)
    sentences = [s.strip() for s in re.split(r"(?<=[。！？])|\n", "\n".join(texts))]
    gains = sorted(len(new.encode(s)) / len(old.encode(s)) for s in sentences if 15 <= len(s) <= 40)
    assert 15 <= len(sentence) <= 40 and any(sentence in text for text in texts)
    assert abs(len(shown["after"]) / len(shown["before"]) - gains[len(gains) // 2]) < 0.05
    assert {piece for piece, kind in zip(shown["after"], shown["kinds"], strict=True) if kind} <= {
        piece.text for piece in new.pieces()[old.vocab_size :]
    }
    assert median_sentence(old, new, ["短"]) == "短"


def test_an_interruption_says_how_to_resume(tmp_path: Path) -> None:
    """Before the folder is made, in a new demo, and in one that replaces another."""
    code = """
import sys
from zhuzi.cli import main
from zhuzi.demo import road

def stop(*given):
    raise KeyboardInterrupt

def walk(*options):
    sys.argv = ["zhuzi", "demo", *options]
    try:
        main()
    except SystemExit as end:
        assert end.code == 130

read, road._walk = road.Sample.read, stop
road.Sample.read = stop
walk()
road.Sample.read = read
walk()
walk("--overwrite")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("demo-run")] == [
        "demo-run: no step was begun; run the same command again",
        "demo-run: interrupted; run the same command again to resume",
        "demo-run: interrupted; run the same command without --overwrite to resume",
    ]


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*given: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with open_state(tmp_path / "out", {"seed": 1}, overwrite=False, inputs=[]):
        pass
    assert "cannot be locked (No locks available); start no second process there" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--out", "taken"], "already holds something"),
        (["--corpus", "no.jsonl"], "no.jsonl"),
        (["--corpus", "one.txt"], "one.txt: 1 document; the demo needs two"),
        (["--instructions", "one.json"], "one.json: 1 instruction; the demo needs two"),
        (["--instructions", "one.txt"], "one.txt"),
        (["--base-tokenizer", "one.txt"], "one.txt"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: list[str], reason: str, tmp_path: Path) -> None:
    """Before torch is imported, and with nothing written."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").touch()
    (tmp_path / "one.txt").write_text("只有一行\n\n")
    (tmp_path / "one.json").write_text('[{"instruction": "问", "output": "答"}]')
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import atexit, sys; from zhuzi.cli import main; "
        "atexit.register(lambda: print([m for m in ('torch', 'transformers') if m in sys.modules])); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--out", "out", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout.endswith("[]\n"), done.stdout
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("files", ["built-in", "reference"])
def test_the_road_at_full_length(files: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Chinese gets better in stage 1 and again in stage 2."""
    own: dict[str, Path] = {}
    if files == "reference":
        from texts import reference_corpora

        reference = request.getfixturevalue("reference")
        texts = next(t for name, t in reference_corpora(reference) if name.startswith("prose_republican"))
        own = {
            "corpus": sample.write_jsonl(tmp_path / "zh.jsonl", texts),
            "instructions": reference / "instructions" / "llamafactory_alpaca_zh_demo.json",
            "base_tokenizer": reference / "tokenizers" / "llama-32000.model",
        }
    made = run_demo(tmp_path / "out", **own)  # type: ignore[arg-type]
    chinese = [entry["bits_per_byte"]["zh"] for entry in made.facts["measured"]]
    assert chinese[1] > chinese[2] > chinese[3]
