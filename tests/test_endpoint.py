"""Asking an endpoint: what is tried again, what is given up at once, and a key that shows nowhere."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from endpoint_server import Reply, completion, serving

pytest.importorskip("httpx2", reason="asking an endpoint is the extra `instruct`")

from zhuzi.cli.options import flag
from zhuzi.endpoint import Client, Endpoint, RefusedPromptError, Stopped, estimate_tokens
from zhuzi.errors import EndpointError, message

KEY = "sk-secret-1234567890"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZHUZI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def ask(url: str, **settings: Any) -> Any:
    with Client(Endpoint(url, "m", **{"backoff": 0.001, **settings})) as client:
        return client.ask([{"role": "user", "content": "你好 hello"}])


def replies(*given: Reply) -> Callable[[int, str], Reply]:
    """These replies one after the other, then good ones."""
    return lambda number, _: given[number] if number < len(given) else completion("好")


def error(status: int, text: str, **headers: str) -> Reply:
    return status, {"error": {"message": text, "type": "x"}}, headers


def test_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with serving(lambda *_: completion("好", tokens=(7, 3), finish="length")) as server:
        for url in (
            server.url,
            server.url + "/",
            server.url + "/chat/completions",
            server.url.removesuffix("/v1"),
        ):
            answer = ask(url, key_env="MY_KEY", settings={"temperature": 0.5})
    assert (answer.text, answer.cut, answer.prompt_tokens, answer.answer_tokens) == ("好", True, 7, 3)
    assert not answer.estimated
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.bodies[0] == {
        "model": "m",
        "temperature": 0.5,
        "stream": False,
        "messages": [{"role": "user", "content": "你好 hello"}],
    }


def test_without_a_key_none_is_sent() -> None:
    with serving(lambda *_: completion("好")) as server:
        ask(server.url)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "一"}, {"text": "二"}], "一二"), ("a\ud83d", "a?")],
)
def test_contents_that_providers_send(content: object, text: str) -> None:
    body = {"choices": [{"message": {"content": content}}], "usage": {"prompt_tokens": -1}}
    with serving(lambda *_: (200, body, {})) as server:
        answer = ask(server.url)
    assert (answer.text, answer.estimated) == (text, True)
    assert answer.prompt_tokens == estimate_tokens("你好 hello") == 4


def test_what_passes_is_tried_again() -> None:
    bad = [
        error(429, "slow down", **{"Retry-After": "0"}),
        error(500, "oops"),
        (503, b"<html>busy</html>", {"Content-Type": "text/html"}),
        (0, b"", {}),  # closes the connection
        (200, b'{"choices": [{"message"', {"cut": "9"}),  # closes it in the middle
        (200, b"<html>not me</html>", {}),
        completion("好"),
    ]
    with serving(replies(*bad)) as server:
        with Client(Endpoint(server.url, "m", backoff=0.001)) as client:
            client._answered = True
            assert client.ask([{"role": "user", "content": "x"}]).text == "好"
        assert server.requests == 7
    assert client.retried == {
        "HTTP 429": 1,
        "HTTP 500": 1,
        "HTTP 503": 1,
        "no connection": 2,
        "another protocol": 1,
    }


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_waited_for(date: bool) -> None:
    after = formatdate(time.time() + 2, usegmt=True) if date else "0.5"
    with serving(replies(error(429, "slow down", **{"Retry-After": after}))) as server:
        ask(server.url)
    assert 0.45 < server.times[1] - server.times[0] < 2.5


def test_a_retry_after_of_hours_is_not_waited_for() -> None:
    with serving(lambda *_: error(429, "come back tomorrow", **{"Retry-After": "7200"})) as server:
        with pytest.raises(EndpointError, match=r"come back tomorrow.*asks for 7,200 seconds") as raised:
            ask(server.url)
        assert server.requests == 1
    assert "lower --rate" in message(raised.value, flag)


def test_tries_end() -> None:
    with serving(lambda *_: error(500, "oops")) as server:
        with pytest.raises(EndpointError, match=r"HTTP 500 \(x, oops\) \(4 times\); try later"):
            ask(server.url, retries=3)
        assert server.requests == 4


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error(401, f"wrong key {KEY}"), r"HTTP 401 \(x, wrong key \(key\)\); put a key .* into MY_KEY"),
        (error(403, "no"), "HTTP 403"),
        (error(404, "no model m"), r"HTTP 404 \(x, no model m\); give the URL that OpenAI's clients take"),
        ((405, b"", {}), r"HTTP 405 \(an empty body\)"),
        ((301, b"", {"Location": "https://x.org/v1"}), "HTTP 301, which points to https://x.org/v1"),
        (error(402, "no money"), "top up the account"),
        ((429, {"error": {"code": "insufficient_quota", "message": "pay"}}, {}), "top up the account"),
    ],
)
def test_what_no_try_changes_ends_at_once(reply: Reply, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda *_: reply) as server:
        with pytest.raises(EndpointError, match=says) as raised:
            ask(server.url, key_env="MY_KEY")
        assert server.requests == 1
    assert KEY not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><html>login</html>", b"", b"[]", b"null", b'"x"', b'{"generated_text": "hi"}',
        b"\xff\xfe",
        b'{"choices": [{"text": "old protocol"}]}', b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": {"a": 1}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_another_protocol_is_one_line(body: bytes) -> None:
    with serving(lambda *_: (200, body, {})) as server:
        with pytest.raises(EndpointError, match="not OpenAI's chat completions") as raised:
            ask(server.url)
        assert server.requests == 3
    assert len(str(raised.value)) < 600 and "\n" not in str(raised.value)


def test_an_answer_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhuzi.endpoint.MAX_BYTES", 1000)
    with (
        serving(lambda *_: (200, b"x" * 2000, {})) as server,
        pytest.raises(EndpointError, match="more than"),
    ):
        ask(server.url)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"refused.*\(3 times\); is the server running there"):
            ask(url)


def test_an_answer_too_slow() -> None:
    def slow(number: int, _: str) -> Reply:
        time.sleep(0.5 if number == 0 else 0)
        return completion("好")

    with serving(slow) as server:
        with pytest.raises(EndpointError, match=r"no answer within 0\.1 s; allow more with `timeout`"):
            ask(server.url, timeout=0.1, retries=0)
        assert ask(server.url, timeout=5.0).text == "好"


def test_an_answer_that_drips() -> None:
    """Each byte comes in time, the whole never does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not ended.wait(0.05):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"no answer within 0\.3 s"):
            ask(url, timeout=0.3, retries=0)
        ended.set()
        thread.join()


def test_a_refused_prompt() -> None:
    with (
        serving(replies(error(400, "content filter"))) as server,
        pytest.raises(RefusedPromptError, match="content filter"),
    ):
        ask(server.url)


def test_the_rate_holds_for_all_threads() -> None:
    with serving(lambda *_: completion("好")) as server:
        with Client(Endpoint(server.url, "m", rate=600)) as client:
            threads = [
                threading.Thread(target=client.ask, args=([{"role": "user", "content": "x"}],))
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert min(gaps) > 0.05 and sum(gaps) > 0.35


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    with serving(lambda *_: error(500, "oops")) as server:
        client = Client(Endpoint(server.url, "m", backoff=60), stop)
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Stopped):
            client.ask([{"role": "user", "content": "x"}])
        client.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "127.0.0.1:8000/v1"}, "is no URL like"),
        ({"url": f"https://me:{KEY}@x.org/v1"}, "https://x.org/v1 holds a key"),
        ({"url": f"https://x.org/v1?api-key={KEY}"}, "https://x.org/v1 holds a key"),
        ({"model": ""}, "model: want"),
        ({"timeout": 0.0}, "timeout: want more than 0"),
        ({"rate": float("nan")}, "rate: want more than 0"),
        ({"retries": -1}, "retries: want 0 or more"),
        ({"settings": {"stream": True}}, "settings: stream cannot be set"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        Endpoint(**{"url": "http://127.0.0.1/v1", "model": "m", **settings})
    assert KEY not in str(raised.value)


def test_keys_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="MY_KEY: not set"):
        ask("http://127.0.0.1/v1", key_env="MY_KEY")
    with pytest.raises(ValueError, match="the name of an environment variable is wanted") as raised:
        ask("http://127.0.0.1/v1", key_env=KEY)
    assert KEY not in str(raised.value)
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ValueError, match="MY_KEY: holds characters that no key has") as raised:
        ask("http://127.0.0.1/v1", key_env="MY_KEY")
    assert KEY not in str(raised.value)


def test_a_key_in_an_answer_is_taken_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ZHUZI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another-key-12345")
    with serving(lambda *_: completion(f"your key is {KEY}")) as server:
        assert ask(server.url).text == "your key is (key)"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text and "127.0.0.1" in caplog.text  # the client library does log


def test_a_key_in_clear_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ZHUZI_API_KEY", KEY)
    for url, clear in (
        ("http://10.0.0.7/v1", True),
        ("https://x.org/v1", False),
        ("http://localhost/v1", False),
    ):
        with Client(Endpoint(url, "m")) as client:
            assert client.sends_key_in_clear == clear
    assert caplog.messages == [
        "http://10.0.0.7/v1/chat/completions: the key is sent without encryption; use https"
    ]
