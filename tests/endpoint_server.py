"""A server on 127.0.0.1 that speaks OpenAI's chat completions, well or badly, for tests."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What a request gets: a status, a body (a dict becomes JSON) and headers; or seconds to wait first.
Reply = tuple[int, Any, dict[str, str]]


def completion(text: str, *, tokens: tuple[int, int] | None = (1000, 500), finish: str = "stop") -> Reply:
    """A chat completion as OpenAI sends it."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, body, {}


def records_for(prompt: str) -> list[dict[str, Any]]:
    """The records that a prompt asks for: always the same for the same prompt; some repeat each other."""
    draw = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    records = []
    for number, task, topic in re.findall(r"^(\d+)\. 【(.+?)】.*（主题：(.+?)）$", prompt, re.M):
        words = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(18))
        instruction = "请写一句关于春天的话，十个字。" if draw.random() < 0.1 else f"谈谈{words}。"
        records.append(
            {
                "no": int(number),
                "instruction": instruction,
                "input": "",
                "output": f"{task}：{topic}，{words}。",
            }
        )
    return records


def answer_for(prompt: str) -> str:
    """A good answer to a prompt."""
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records_for(prompt))


class Server:
    """What the server saw, and how it answers: `reply(number, prompt)` for each request, from 0."""

    def __init__(self, reply: Callable[[int, str], Reply]) -> None:
        self.reply = reply
        self.prompts: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        return len(self.prompts)

    def begin(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, str]:
        with self._lock:
            number, prompt = len(self.prompts), body["messages"][-1]["content"]
            self.prompts.append(prompt)
            self.headers.append(headers)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return number, prompt

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


@contextmanager
def serving(reply: Callable[[int, str], Reply] | None = None) -> Iterator[Server]:
    """A server during the block; a good one by default."""
    server = Server(reply or (lambda number, prompt: completion(answer_for(prompt))))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number, prompt = server.begin(dict(self.headers), body)
            try:
                status, held, headers = server.reply(number, prompt)
                if status == 0:  # not at all
                    self.close_connection = True
                    return
                data = held if isinstance(held, bytes) else json.dumps(held).encode()
                self.send_response(status)
                cut = headers.pop("cut", None)
                self.send_header("Content-Length", str(len(data)))
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: int(cut)] if cut else data)
                self.close_connection = bool(cut)
            except OSError:  # the client is gone
                self.close_connection = True
            finally:
                server.end()

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that was killed
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
