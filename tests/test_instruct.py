"""Collecting instruction data from a real server on 127.0.0.1: whole, resumable, within a budget."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zhuzi
from endpoint_server import Reply, Server, answer_for, completion, records_for, serving
from zhuzi.errors import EndpointError, InputError, OutputExistsError
from zhuzi.instruct import Budget, CollectedInstructions, Endpoint
from zhuzi.instruct.collect import Progress
from zhuzi.instruct.collection import FRUITLESS
from zhuzi.train.data import read_records

pytest.importorskip("httpx2", reason="asking an endpoint is the extra `instruct`")

KEY = "sk-secret-1234567890"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZHUZI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def collect(out: Path, server: Server, *, calls: int | None = 4, **options: Any) -> CollectedInstructions:
    budget = options.pop("budget", Budget(max_calls=calls))
    asked = {key: options.pop(key) for key in ("retries", "timeout", "settings") if key in options}
    endpoint = Endpoint(server.url, "m", **{"backoff": 0.001, **asked})
    return zhuzi.collect_instructions(out, endpoint, budget=budget, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_records_for_tuning(tmp_path: Path) -> None:
    out = tmp_path / "zh.jsonl"
    with serving() as server:
        made = collect(out, server, calls=5, parallel=3)
        assert server.requests == 5 and server.most_at_once <= 3
    records = list(read_records(out))
    assert len(records) == made.records == 100 - made.left_out["like an earlier one"]
    assert all(list(record) == ["instruction", "input", "output"] for record in records)
    assert (made.calls, made.prompt_tokens, made.answer_tokens, made.ended_by) == (5, 5000, 2500, "calls")
    assert made.outcome == "finished" and "records from 5 calls" in repr(made)
    sources = json.loads((tmp_path / "zh.jsonl.sources.zhuzi.json").read_bytes())
    assert (sources["model"], sources["seed"], sources["columns"]) == (
        "m",
        0,
        ["call", "place", "task", "topic"],
    )
    assert len(sources["records"]) == len(records)
    for record, (_, _, task, topic) in zip(records, sources["records"], strict=True):
        assert record["output"].startswith(f"{task}：{topic}，")
    # Whoever reads the folder reads the records, and nothing else.
    assert list(read_records(tmp_path)) == records


def test_the_same_file_whatever_the_order(tmp_path: Path) -> None:
    draw = random.Random(1)

    def slow(_: int, prompt: str) -> Reply:
        time.sleep(draw.random() * 0.05)
        return completion(answer_for(prompt))

    with serving() as server:
        collect(tmp_path / "a.jsonl", server, calls=12, parallel=1)
        prompts = sorted(server.prompts)
    with serving(slow) as server:
        collect(tmp_path / "b.jsonl", server, calls=12, parallel=6)
        assert sorted(server.prompts) == prompts
        collect(tmp_path / "c.jsonl", server, calls=12, seed=1)
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def bad_now_and_then(draw: random.Random) -> Callable[[int, str], Reply]:
    """Good answers, and all that can go wrong on the way to them."""

    def reply(_: int, prompt: str) -> Reply:
        kind = draw.randrange(8)
        if kind == 0:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}
        if kind == 1:
            return 500, b"<html>oops</html>", {}
        if kind == 2:
            return 0, b"", {}
        if kind == 3:
            return 200, b'{"choices": [{"message"', {"cut": "9"}
        if kind == 4:
            return 200, b"<html>please log in</html>", {}
        if kind == 5:
            time.sleep(0.3)
        return completion(answer_for(prompt))

    return reply


def test_a_bad_server_gives_the_same_file(tmp_path: Path) -> None:
    with serving() as server:
        collect(tmp_path / "good.jsonl", server, calls=10)
        prompts = set(server.prompts)
    with serving(bad_now_and_then(random.Random(3))) as server:
        made = collect(tmp_path / "bad.jsonl", server, calls=10, timeout=0.2, retries=30)
        assert set(server.prompts) == prompts
    assert (tmp_path / "bad.jsonl").read_bytes() == (tmp_path / "good.jsonl").read_bytes()
    assert set(made.retried) == {"HTTP 429", "HTTP 500", "no connection", "another protocol", "time-out"}


def half(prompt: str) -> str:
    """Prose, a fence, and an array that ends in the middle of its sixth record."""
    whole = json.dumps(records_for(prompt)[:6], ensure_ascii=False, indent=1)
    return "好的，以下是您要的数据：\n```json\n" + whole[: whole.rindex('"output"') + 14]


def test_half_an_answer_is_taken(tmp_path: Path) -> None:
    with serving(lambda _, prompt: completion(half(prompt), finish="length")) as server:
        made = collect(tmp_path / "a.jsonl", server, calls=3, parallel=1)
    assert made.records + made.left_out.get("like an earlier one", 0) == 15
    assert (made.left_out["incomplete"], made.cut_answers) == (3, 3)
    assert "3 answers ended at a limit of tokens; their whole records were taken" in made.text()


def test_some_prompts_are_refused(tmp_path: Path) -> None:
    def reply(number: int, prompt: str) -> Reply:
        if number in (0, 3):
            return 400, {"error": {"message": "content filter"}}, {}
        return completion(answer_for(prompt))

    with serving(reply) as server:
        made = collect(tmp_path / "a.jsonl", server, calls=5, parallel=1)
        assert server.requests == 5
        again = collect(tmp_path / "a.jsonl", server, calls=5)
        assert server.requests == 5  # not even those that were refused
    assert made.refused == {"HTTP 400 (content filter)": 2} == again.refused
    assert "refused by the endpoint: 2 calls (HTTP 400 (content filter) 2)" in made.text()


# What cannot go on


@pytest.mark.parametrize(
    ("reply", "says", "requests"),
    [
        ((200, b"<html>hi</html>", {}), "not OpenAI's chat completions .*give the URL", 3),
        ((401, b"", {}), "put a key that is valid there", 1),
        ((400, {"error": "no such model"}, {}), "refuses every prompt: HTTP 400 .*no such model", 3),
        ((500, b"", {}), r"HTTP 500 \(an empty body\) \(3 times\)", 3),
    ],
)
def test_a_server_that_never_answers(reply: Reply, says: str, requests: int, tmp_path: Path) -> None:
    with serving(lambda *_: reply) as server:
        with pytest.raises(EndpointError, match=says) as raised:
            collect(tmp_path / "a.jsonl", server, parallel=1, retries=2)
        assert server.requests == requests
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_no_answer_at_all(tmp_path: Path) -> None:
    silent = threading.Event()

    def wait(*_: object) -> Reply:
        silent.wait(10)
        return 0, b"", {}

    with serving(wait) as server:
        with pytest.raises(EndpointError, match=r"no answer within 0\.1 s \(2 times\)"):
            collect(tmp_path / "a.jsonl", server, timeout=0.1, retries=1)
        silent.set()
    assert list(tmp_path.iterdir()) == []


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with serving() as server:
        good = server.reply
        server.reply = lambda number, prompt: good(number, prompt) if number < 5 else (401, b"", {})
        with pytest.raises(EndpointError, match="401") as raised:
            collect(out, server, calls=8, parallel=2)
        assert raised.value.__notes__ == ["kept: 5 answers; the same command goes on"]
        assert not out.exists()
        server.reply = good
        made = collect(out, server, calls=8, parallel=2)
    assert made.calls == 8 and len(set(server.prompts)) == 8
    assert server.requests <= 8 + 2


@pytest.mark.parametrize("text", ["", "我不会。", json.dumps({"instruction": "Sing a song", "output": "La"})])
def test_answers_without_a_record(text: str, tmp_path: Path) -> None:
    with serving(lambda *_: completion(text)) as server:
        with pytest.raises(InputError, match="no record to keep in the answers to 10 calls") as raised:
            collect(tmp_path / "a.jsonl", server, calls=50)
        assert FRUITLESS <= server.requests <= FRUITLESS + 8  # those in flight, and those that follow them
    assert ("not Chinese 10" if "Sing" in text else f"begins '{text}'") in str(raised.value)
    assert not (tmp_path / "a.jsonl").exists()


def test_a_model_that_repeats_itself_ends_it(tmp_path: Path) -> None:
    with serving(lambda *_: completion(answer_for(first[0]))) as server:
        first = [""]
        server.reply = lambda number, prompt: completion(
            answer_for(first[0] if number else first.__setitem__(0, prompt) or prompt)
        )
        made = collect(tmp_path / "a.jsonl", server, calls=None, budget=Budget(records=100), parallel=1)
    assert (made.ended_by, made.calls) == ("nothing new", FRUITLESS + 1)
    assert "the last 10 calls gave no new record" in made.text()


# Budgets


def test_a_budget_of_calls_is_never_exceeded(tmp_path: Path) -> None:
    with serving() as server:
        collect(tmp_path / "a.jsonl", server, calls=7, parallel=5)
        assert server.requests == 7


@pytest.mark.parametrize(
    ("budget", "calls"),
    [
        (Budget(max_tokens=9000), 6),
        (Budget(max_tokens=9001), 7),
        (Budget(max_cost=0.02, price_in=1.0, price_out=4.0), 7),
        (Budget(max_cost=1.0, price_in=1.0, max_calls=3), 3),
    ],
)
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_budget_is_exceeded_by_the_calls_in_flight_at_most(
    budget: Budget, calls: int, parallel: int, tmp_path: Path
) -> None:
    """A call costs 1,000 tokens of prompt and 500 of answer."""
    with serving() as server:
        made = collect(tmp_path / "a.jsonl", server, budget=budget, parallel=parallel)
        assert calls <= server.requests <= calls + parallel - 1
        assert made.calls == calls  # the file does not depend on what was in flight
        assert made.unused_answers == server.requests - calls
    assert made.ended_by in {"tokens", "cost", "calls"}
    assert made.cost == pytest.approx(calls * (1000 * budget.price_in + 500 * budget.price_out) / 1e6)


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    out, whole = tmp_path / "a.jsonl", tmp_path / "whole.jsonl"
    with serving() as server:
        collect(out, server, calls=3)
        with pytest.raises(OutputExistsError, match="already there, from 3 calls; go on with overwrite=True"):
            collect(out, server, calls=6)
        made = collect(out, server, calls=6, overwrite=True)
        assert server.requests == 6 and made.calls == 6
        assert collect(out, server, calls=6).outcome == "already"
        small = collect(out, server, budget=Budget(records=30), overwrite=True)
        assert server.requests == 6 and small.records == 30
        collect(out, server, calls=6, overwrite=True)
        assert server.requests == 6
        collect(whole, server, calls=6)
    assert out.read_bytes() == whole.read_bytes()


def test_so_many_records(tmp_path: Path) -> None:
    with serving() as server:
        made = collect(tmp_path / "a.jsonl", server, budget=Budget(records=50), parallel=8)
        assert made.records == 50 == len((tmp_path / "a.jsonl").read_text("utf-8").splitlines())
        assert server.requests <= 4  # 20 records an answer: eight at once would have been for nothing
        longer = collect(tmp_path / "b.jsonl", server, budget=Budget(records=70))
    lines = (tmp_path / "b.jsonl").read_text("utf-8").splitlines()
    assert longer.records == 70 and lines[:50] == (tmp_path / "a.jsonl").read_text("utf-8").splitlines()


def test_without_a_limit_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhuzi.instruct.collect.DEFAULT_CALLS", 3)
    with serving() as server:
        assert collect(tmp_path / "a.jsonl", server, budget=None).calls == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"records": 0}, "records: want more than 0"),
        ({"max_cost": float("nan"), "price_in": 1.0}, "max_cost: want more than 0"),
        ({"price_in": -1.0}, "price_in: want 0 or more"),
        ({"max_cost": 1.0}, "`max_cost` needs the prices"),
    ],
)
def test_budgets_that_cannot_be(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Budget(**settings)  # type: ignore[arg-type]


# Killed, interrupted, at the same time, somebody else's


def command(out: Path, server: Server, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "zhuzi", "instruct", "--out", str(out), "--endpoint", server.url),
        *("--model", "m", "--parallel", "3", *options),
    ]


def test_killed_twenty_times(tmp_path: Path) -> None:
    """The file of an uninterrupted run, to the byte; each kill costs the calls in flight at most."""

    def slow(_: int, prompt: str) -> Reply:
        time.sleep(0.02)
        return completion(answer_for(prompt))

    draw = random.Random(5)
    environment = {**os.environ, "ZHUZI_API_KEY": KEY}
    out, kills = tmp_path / "killed" / "a.jsonl", 0
    with serving(slow) as server:
        collect(tmp_path / "whole" / "a.jsonl", server, calls=60, parallel=3)
        before = server.requests
        written = b""
        while True:
            started = server.requests
            limit = draw.randrange(1, 5) if kills < 20 else 1000
            with subprocess.Popen(
                command(out, server, "--max-calls", "60"),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                while process.poll() is None and server.requests - started < limit:
                    time.sleep(0.002)
                if process.poll() is None and limit < 1000:
                    time.sleep(draw.random() * 0.03)
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                said, complained = process.communicate()
            written += said + complained
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, complained
            assert not out.exists()
            assert kills <= 20
        sent = server.requests - before
        assert all(f"Bearer {KEY}" == headers["Authorization"] for headers in server.headers[before:])
    assert kills == 20
    assert contents(out.parent) == contents(tmp_path / "whole")
    assert 60 <= sent <= 60 + 3 * kills
    lost = re.search(rb"(\d+) calls? sent again", said)
    assert lost and int(lost[1]) >= sent - 60 > 0
    # No key anywhere.
    assert KEY.encode() not in written
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 8 and all(KEY.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_is_in_flight(stop: signal.Signals, tmp_path: Path) -> None:
    def slow(_: int, prompt: str) -> Reply:
        time.sleep(0.3)
        return completion(answer_for(prompt))

    with serving(slow) as server:
        with subprocess.Popen(
            command(tmp_path / "a.jsonl", server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while server.requests < 3:
                time.sleep(0.01)
            process.send_signal(stop)
            _, complained = process.communicate()
        assert process.returncode == 128 + stop
        assert "waiting for 3 answers in flight" in complained
        assert "a.jsonl: kept: 3 answers; the same command goes on" in complained
        assert complained.splitlines()[-1] == "zhuzi: interrupted"
        made = collect(tmp_path / "a.jsonl", server, calls=4)
        assert server.requests == 4 and made.lost_calls == 0


def test_a_line_that_a_kill_cut_is_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with serving() as server:
        collect(out, server, calls=4, parallel=1)
        whole = out.read_bytes()
        journal = tmp_path / ".a.jsonl.answers" / "answers"
        held = journal.read_bytes()
        for cut in (1, 100, len(held.splitlines()[-1]) + 1):
            out.unlink()
            journal.write_bytes(held[:-cut])
            before = server.requests
            assert collect(out, server, calls=4).calls == 4
            assert server.requests == before + 1
            assert out.read_bytes() == whole
        out.unlink()
        journal.write_bytes(held.replace(b'"tokens"', b'"tokins"', 1))
        with pytest.raises(InputError, match=r"answers/answers: line 2 is damaged; take the line out"):
            collect(out, server, calls=4)


def test_two_at_once(tmp_path: Path) -> None:
    begun = threading.Event()

    def slow(_: int, prompt: str) -> Reply:
        begun.set()
        time.sleep(0.2)
        return completion(answer_for(prompt))

    with serving(slow) as server:
        thread = threading.Thread(target=collect, args=(tmp_path / "a.jsonl", server))
        thread.start()
        begun.wait(10)
        with pytest.raises(OutputExistsError, match="another process collects there"):
            collect(tmp_path / "a.jsonl", server)
        thread.join()
    assert (tmp_path / "a.jsonl").exists()


def test_answers_of_another_collection(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with serving() as server:
        collect(out, server, calls=2)
        out.unlink()
        with pytest.raises(
            OutputExistsError, match=r"another collection \(per_call, seed, settings differ\)"
        ):
            collect(out, server, calls=2, seed=1, per_call=5, settings={"temperature": 1})
        made = collect(out, server, calls=2, seed=1, per_call=5, overwrite=True)
        assert server.requests == 4 and made.records <= 10


def test_a_folder_of_a_user_stays(tmp_path: Path) -> None:
    mine = tmp_path / ".a.jsonl.answers" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with serving() as server:
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match=r"holds thesis\.txt, which zhuzi did not write"):
                collect(tmp_path / "a.jsonl", server, overwrite=overwrite)
    assert mine.read_text() == "mine" and server.requests == 0


def test_names_that_tuning_would_not_read(tmp_path: Path) -> None:
    with serving() as server, pytest.raises(ValueError, match=r"want a name that ends in \.jsonl"):
        collect(tmp_path / "a.txt", server)


# The command


def test_the_command(tmp_path: Path) -> None:
    topics = tmp_path / "topics.txt"
    topics.write_text("茶\n咖啡\n")
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(json.dumps({"instruction": "写诗", "input": "", "output": "春"}))
    out = tmp_path / "out" / "a.jsonl"
    with serving() as server:
        options = ["--topics", str(topics), "--seeds", str(seeds), "--per-call", "4", "--max-calls", "2"]
        options += ["--temperature", "0.7", "--answer-tokens", "900", "--extra", '{"enable_thinking": false}']
        options += ["--price-in", "2", "--price-out", "8"]
        done = subprocess.run(command(out, server, *options), capture_output=True, text=True, check=True)
        body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["enable_thinking"]) == (0.7, 900, False)
    assert '{"no": 1, "instruction": "写诗", "input": "", "output": "春"}' in server.prompts[0]
    assert re.search(
        r"records from 2 calls \(2,000 tokens of prompts, 1,000 of answers, costing 0\.012\)", done.stdout
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--endpoint", "nonsense"], "endpoint: 'nonsense' is no URL like http://127.0.0.1:8000/v1"),
        (["--key-env", "NO_SUCH"], "NO_SUCH: not set; export the key in it, or name another"),
        (["--max-cost", "1"], "--max-cost needs the prices of a million tokens: --price-in and"),
        (["--extra", "[1]"], "want a JSON object"),
        (["--extra", "{"], "no JSON"),
        (["--topics", "nowhere.txt"], "nowhere.txt: no such file; want a text file with one topic a line"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(options: list[str], says: str, tmp_path: Path) -> None:
    line = [*("--out", tmp_path / "a.jsonl", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "zhuzi", "instruct", *map(str, line)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode in (1, 2) and says in done.stderr
    assert not (tmp_path / "a.jsonl").exists()


def test_progress_is_told(tmp_path: Path) -> None:
    states: list[Progress] = []
    with serving() as server:
        made = collect(tmp_path / "a.jsonl", server, calls=6, progress=states.append)
    assert [state.calls for state in states] == [1, 2, 3, 4, 5, 6]
    assert (states[-1].records, states[-1].tokens) == (made.records, 9000)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_server_that_repeats_the_key(status: int, tmp_path: Path) -> None:
    """In answers and errors, with the trace of `--debug`: it is shown nowhere and kept nowhere."""
    said = f"{json.dumps({'instruction': f'写诗 {KEY}', 'output': KEY})} {KEY}"

    def reply(number: int, prompt: str) -> Reply:
        if number == 0:
            return completion(answer_for(prompt) + said)
        return completion(said) if status == 200 else (status, {"error": {"message": said}}, {})

    with serving(reply) as server:
        done = subprocess.run(
            command(
                tmp_path / "a.jsonl",
                server,
                "--max-calls",
                "2",
                "--parallel",
                "1",
                "--retries",
                "0",
                "--debug",
            ),
            env={**os.environ, "ZHUZI_API_KEY": "", "OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
        )
        assert server.headers[1]["Authorization"] == f"Bearer {KEY}"
    assert (done.returncode == 0) == (status in (200, 400)), done.stderr
    assert "(key)" in done.stdout + done.stderr or status == 200
    assert KEY not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize("what", ["seeds", "topics", "extra"])
def test_a_key_in_what_is_given_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be sent in a prompt, and stand in the record of the collection."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"instruction": f"use {KEY}", "output": "yes"}))
    (tmp_path / "topics").write_text(f"one\n{KEY}\n")
    given: dict[str, dict[str, Any]] = {
        "seeds": {"seeds": tmp_path / "seeds.jsonl"},
        "topics": {"topics": tmp_path / "topics"},
        "extra": {"settings": {"api_key": KEY}},
    }
    with serving() as server, pytest.raises(ValueError, match=f"{what}: the endpoint's key stands") as raised:
        collect(tmp_path / "out.jsonl", server, **given[what])
    assert KEY not in str(raised.value) and not server.requests
    assert {path.name for path in tmp_path.iterdir()} == {"seeds.jsonl", "topics"}
