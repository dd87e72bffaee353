"""The server, asked by the real client of OpenAI over real connections."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from zhuzi import Chat, Sampling, Tokenizer
from zhuzi.infer.prompt import format_prompt

openai = pytest.importorskip("openai", reason="the client that the server is tested with")
httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="the extra `serve`")
pytest.importorskip("prometheus_client", reason="the extra `serve`")

ASKED = [{"role": "user", "content": "你好，世界"}]
WILD = {"temperature": 1.5, "top_p": 1.0, "extra_body": {"top_k": 0, "repetition_penalty": 1.0}}


class Server:
    """`zhuzi serve` in a process of its own."""

    def __init__(self, model: Path, *options: str, key: str | None = None) -> None:
        environment = {**os.environ, **({"TEST_KEY": key} if key else {})}
        options = (*options, *(("--key-env", "TEST_KEY") if key else ()))
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "zhuzi",
                "serve",
                "--model",
                str(model),
                "--port",
                "0",
                "--name",
                "m",
                *options,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stderr
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.match(r"serve: (http://\S+)/v1 answers as m", line)
            if found:
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.lines))
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True).start()
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=120
        )

    def chat(self, **options: Any) -> Any:
        return self.client.chat.completions.create(
            **{"model": "m", "messages": ASKED, "max_tokens": 8, **options}
        )

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(model: Path, *options: str, key: str | None = None) -> Iterator[Server]:
    server = Server(model, *options, key=key)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with running(model) as held:
        yield held


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def streamed(chunks: Any) -> tuple[str, list[Any]]:
    held = list(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in held if c.choices)
    return text, held


def test_streaming_or_not_it_is_the_answer_of_chat(server: Server, model: Path) -> None:
    sampling = Sampling(
        max_new_tokens=24, temperature=1.5, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=7
    )
    said = "".join(Chat.from_dir(model, device="cpu").reply(ASKED[0]["content"], sampling=sampling))
    whole = server.chat(seed=7, **{**WILD, "max_tokens": 24})
    text, chunks = streamed(
        server.chat(seed=7, stream=True, stream_options={"include_usage": True}, **{**WILD, "max_tokens": 24})
    )
    assert whole.choices[0].message.content == text == said
    assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason
    prompt = len(Tokenizer.from_dir(model).encode(format_prompt(ASKED[0]["content"]))) + 1
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.prompt_tokens == prompt and 0 < usage.completion_tokens <= 24
    assert whole.usage == chunks[-1].usage
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert server.chat(seed=8, **{**WILD, "max_tokens": 24}).choices[0].message.content != said


def test_several_answers_and_a_stop(server: Server) -> None:
    several = server.chat(n=3, seed=1, **WILD)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [c.message.content for c in server.chat(n=3, seed=1, **WILD).choices]
    assert texts[0] == server.chat(seed=1, **WILD).choices[0].message.content
    both = list(server.chat(n=2, seed=1, stream=True, **WILD))
    for index in (0, 1):
        parts = [c.choices[0].delta.content or "" for c in both if c.choices[0].index == index]
        assert "".join(parts) == texts[index]
    stop = texts[0][2:5]
    cut = server.chat(seed=1, stop=[stop, "never"], **WILD).choices[0]
    assert cut.message.content == texts[0][: texts[0].find(stop)] and cut.finish_reason == "stop"
    assert streamed(server.chat(seed=1, stop=stop, stream=True, **WILD))[0] == cut.message.content


def test_log_probabilities(server: Server, model: Path) -> None:
    asked = server.chat(temperature=0, logprobs=True, top_logprobs=2, extra_body={"repetition_penalty": 1.0})
    entries = asked.choices[0].logprobs.content
    assert len(entries) == asked.usage.completion_tokens
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in entries)  # the likeliest was taken
    assert b"".join(bytes(e.bytes) for e in entries).decode("utf-8", "replace").strip() == (
        asked.choices[0].message.content.strip()
    )
    done = server.client.completions.create(
        model="m",
        prompt="The river",
        max_tokens=4,
        temperature=0,
        logprobs=3,
        extra_body={"repetition_penalty": 1.0},
    )
    held = done.choices[0].logprobs
    tokenizer, chat = Tokenizer.from_dir(model), Chat.from_dir(model, device="cpu")
    ids = tokenizer.encode("The river", add_bos=True)
    with torch.no_grad():
        row = chat.model(torch.tensor([ids])).logits[0, -1, : tokenizer.vocab_size].log_softmax(-1)
    assert held.token_logprobs[0] == pytest.approx(float(row.max()), abs=1e-3)
    assert len(held.tokens) == 4 and len(held.top_logprobs[0]) == 3


def test_completions_of_texts_and_ids(server: Server, model: Path) -> None:
    tokenizer = Tokenizer.from_dir(model)
    texts = ["The river", "你好", "天地"]

    def ask(prompt: Any, **options: Any) -> list[str]:
        done = server.client.completions.create(
            model="m", prompt=prompt, max_tokens=6, temperature=0, **options
        )
        return [choice.text for choice in done.choices]

    alone = [ask(text)[0] for text in texts]
    assert ask(texts) == alone
    assert ask([tokenizer.encode(text, add_bos=True) for text in texts]) == alone
    assert ask(tokenizer.encode(texts[0], add_bos=True)) == alone[:1]
    parts = server.client.completions.create(
        model="m", prompt=texts[0], max_tokens=6, temperature=0, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == alone[0]


def test_fifty_clients_at_once_get_what_each_gets_alone(server: Server) -> None:
    def ask(seed: int) -> str:
        if seed % 2:
            return streamed(server.chat(seed=seed, stream=True, **WILD))[0]
        return server.chat(seed=seed, **WILD).choices[0].message.content

    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(ask, range(50)))
    assert [ask(seed) for seed in range(0, 50, 7)] == together[::7]
    assert len(set(together)) > 40


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(stream: bool, server: Server) -> None:
    gone, made = (
        server.metric("zhuzi_clients_gone_total"),
        server.metric('zhuzi_tokens_total{kind="completion"}'),
    )
    long = {**WILD, "max_tokens": 150, "n": 16, "extra_body": {"repetition_penalty": 1.0, "top_k": 0}}
    if stream:
        answer = server.chat(stream=True, **long)
        for _ in range(6):
            next(iter(answer))
        assert server.metric("zhuzi_answers_active") == 4
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            server.client.with_options(timeout=0.3).chat.completions.create(model="m", messages=ASKED, **long)
    until(lambda: server.metric("zhuzi_clients_gone_total") == gone + 1)
    until(lambda: server.metric("zhuzi_answers_active") == server.metric("zhuzi_answers_waiting") == 0)
    assert server.metric('zhuzi_tokens_total{kind="completion"}') - made < 2000  # of 2,400
    assert server.chat().choices[0].message.content is not None


@pytest.mark.parametrize("hops", range(6))
def test_whenever_a_client_leaves_the_events_end(hops: int) -> None:
    """Also at the moment at which an event has just been sent."""
    from zhuzi.serve.http import EventStream

    sent, closed, left = [], [], asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d" % number
            await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        await left.wait()
        for _ in range(hops):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 4:
            left.set()

    asyncio.run(EventStream(events(), lambda: closed.append(True))({}, receive, send))
    assert closed == [True] and len(sent) < 50


def post(server: Server, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Any:
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.post(server.url + path, content=body, headers=sent, timeout=30)


def test_a_hundred_megabytes_are_not_kept(server: Server) -> None:
    server.chat()
    before = server.memory()
    big = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a" * 100_000_000}]}).encode()
    for _ in range(2):
        answer = post(server, big)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    chunked = httpx.post(  # without a length
        f"{server.url}/v1/chat/completions",
        content=(big[at : at + 65536] for at in range(0, len(big), 65536)),
        headers={"content-type": "application/json"},
    )
    assert chunked.status_code == 413
    with pytest.raises(openai.APIStatusError) as raised:
        server.chat(messages=[{"role": "user", "content": "a" * 100_000_000}])
    assert raised.value.status_code == 413
    assert server.memory() - before < 30_000_000
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        raw.settimeout(10)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"model": "m", "messages": [', 400, "the body is no JSON"),
        (b"\xff\xfe", 400, "the body is no JSON"),
        (b"[" * 100_000, 400, "the body is no JSON"),
        (b'"text"', 400, "no JSON object"),
        (b'{"model": "m"}', 400, "messages is missing"),
        (b'{"model": "m", "messages": []}', 400, "messages: "),
        (b'{"model": "m", "messages": [{"role": "tool", "content": "a"}]}', 400, "messages.0.role"),
        (
            b'{"model": "m", "messages": [{"role": "assistant", "content": "a"}]}',
            400,
            "last must be the user's",
        ),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, ""),
        (
            b'{"model": "x", "messages": [{"role": "user", "content": "a"}]}',
            404,
            "there is no model 'x' here",
        ),
    ],
)
def test_bodies_that_are_wrong(body: bytes, status: int, says: str, server: Server) -> None:
    answer = post(server, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"seed": 1 << 70}, "seed"),
        ({"top_q": 1}, "top_q"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"messages": [{"role": "user", "content": "天" * 300}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"stop": [1]}, "stop"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], param: str, server: Server) -> None:
    asked = {"model": "m", "messages": ASKED, **options}
    answer = post(server, json.dumps(asked).encode())
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_null_asks_for_nothing(server: Server) -> None:
    names = ("stream", "stream_options", "n", "stop", "seed", "temperature", "tools", "functions", "logprobs")
    nothing = {"model": "m", "messages": ASKED, "max_tokens": 2, **dict.fromkeys(names)}
    answer = post(server, json.dumps(nothing).encode())
    assert answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"], answer.text
    answer = post(server, json.dumps({"model": None, "messages": ASKED}).encode())
    assert answer.json()["error"]["message"] == "model is missing"
    answer = post(server, b'{"model": "m", "prompt": ["a", 1]}', path="/v1/completions")
    assert answer.json()["error"]["message"] == "prompt: want a text or its ids, or a list of them"


def test_the_client_gets_the_right_exceptions(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'") as raised:
        server.chat(model="gpt-9")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="256 positions"):
        server.chat(messages=[{"role": "user", "content": "天" * 300}])
    assert [model.id for model in server.client.models.list()] == ["m"]
    assert server.client.models.retrieve("m").id == "m"
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("a/b")


def test_paths_types_and_hosts(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "model": "m"}
    assert httpx.get(f"{server.url}/nothing").json()["error"]["message"] == "GET /nothing: not found"
    assert httpx.get(f"{server.url}/v1/completions").status_code == 405
    body = json.dumps({"model": "m", "messages": ASKED, "max_tokens": 1}).encode()
    assert post(server, body, content_type="text/plain").status_code == 415  # what a page may send unasked
    assert post(server, body, host="evil.example").status_code == 403
    answer = post(server, body, origin="https://evil.example")
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


def test_a_key(model: Path) -> None:
    with running(model, key="s3cret") as server:
        assert server.chat(max_tokens=1).choices
        for key in ("wrong", "s3cret2", "ключ"):
            answer = httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}".encode()})
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert "s3cret" not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_too_many_are_told_to_come_again(make_model: Callable[..., Path], tmp_path: Path) -> None:
    # The first answer lasts: its model is deep, and with this seed no end is drawn early.
    slow = make_model(tmp_path / "slow", num_hidden_layers=48, max_position_embeddings=512)
    with running(slow, "--parallel", "1", "--queue", "1") as server:
        first = server.chat(stream=True, seed=3, **{**WILD, "max_tokens": 300})
        next(iter(first))
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(server.chat, max_tokens=1)
            until(lambda: server.metric("zhuzi_answers_waiting") == 1)
            with pytest.raises(openai.RateLimitError, match="1 answers wait already") as raised:
                server.chat()
            assert raised.value.response.headers["retry-after"] == "1"
            first.close()
            assert second.result().choices
        assert server.chat(max_tokens=1).choices


def test_sigterm_lets_answers_end(model: Path) -> None:
    with running(model) as server:
        answer = server.chat(stream=True, seed=1, **{**WILD, "max_tokens": 60})
        chunks = iter(answer)
        next(chunks)
        server.process.send_signal(signal.SIGTERM)
        rest = list(chunks)
        assert rest[-1].choices[0].finish_reason in ("length", "stop")
        assert server.process.wait(30) == 0
        with pytest.raises(openai.APIConnectionError):
            server.chat()
    assert not [line for line in server.lines if "Traceback" in line]


def test_sigterm_waits_no_longer_than_told(model: Path) -> None:
    with running(model, "--stop-seconds", "1", "--parallel", "1") as server:
        held = [server.chat(stream=True, **{**WILD, "max_tokens": 200, "n": 16}) for _ in range(4)]
        next(iter(held[0]))
        begun = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - begun < 15


def test_an_address_that_is_taken(server: Server, model: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "zhuzi", "serve", "--model", str(model), "--port", port],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "choose another port or host" in done.stderr


def test_memory_is_flat_under_load(server: Server) -> None:
    def ask(number: int) -> None:
        options = {**WILD, "max_tokens": 6, "seed": number}
        if number % 4 == 0:
            server.chat(**options)
        elif number % 4 == 1:
            assert post(server, b'{"model": "m"').status_code == 400
        elif number % 4 == 2:
            streamed(server.chat(stream=True, **options))
        else:
            next(iter(left := server.chat(stream=True, **options)))
            left.close()

    with ThreadPoolExecutor(50) as pool:  # for ten minutes: benches/bench_serve.py
        list(pool.map(ask, range(120)))
        before = server.memory()
        list(pool.map(ask, range(360)))
    until(lambda: server.metric("zhuzi_answers_active") == 0)
    assert server.memory() - before < 12_000_000
    assert server.metric("zhuzi_answers_waiting") == 0
