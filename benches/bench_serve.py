"""`zhuzi serve` under load for minutes: is its memory flat, and does it answer all the time?

    python benches/bench_serve.py MODEL                       # 10 minutes, 50 clients
    python benches/bench_serve.py MODEL --seconds 60 --clients 8

Clients ask without a pause. Most read their answer to its end, with and without streaming. Some leave in the
middle of it or before it begins, some close the connection within a request, and some send what is no JSON,
too large, for another model or with a wrong setting. Every kind has a status that is right; any other is
counted and fails the run. The memory is RssAnon of the server's process (what it allocated, without mapped
files), sampled each second. What a process needs at all is allocated early, so growth is that of the last two
thirds of the time: a line fitted to the samples (least squares), from its beginning to its end.

Bias: clients and server share the machine, so requests per second say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from recording import Recorder

PACKAGES = ("torch", "transformers", "starlette", "uvicorn")

#: Kinds of requests, and how often each comes.
KINDS = {
    "streamed": 45, "whole": 20, "completion": 8, "several answers": 4,
    "leaves in the middle": 10, "leaves before the first token": 4, "closes within the request": 2,
    "no JSON": 3, "too large": 2, "another model": 1, "wrong setting": 1,
}  # fmt: skip
#: What is right for those that do not get an answer.
REFUSED = {"no JSON": 400, "too large": 413, "another model": 404, "wrong setting": 400}
QUESTIONS = ("你好", "The river", "春天来了，写一首诗。", "请解释什么是机器学习，并举一个例子。")
MB = 1 << 20


@dataclass
class Load:
    """What clients did, and what the server's memory did."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, and bytes."""
    done: list[float] = field(default_factory=list)
    """When each request ended."""


class Server:
    """`zhuzi serve` in a process of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        told = ["serve", "--model", str(model), "--port", "0", "--name", "m"]
        with log.open("w") as said:
            self.process = subprocess.Popen([sys.executable, "-m", "zhuzi", *told], stderr=said)
        self.url = ""
        while not self.url:
            time.sleep(0.1)
            if found := re.search(r"serve: (http://\S+)/v1 answers", log.read_text()):
                self.url = found[1]
            elif self.process.poll() is not None:
                raise SystemExit(log.read_text())

    def memory(self) -> int:
        """Bytes that it allocated."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


async def ask(client: httpx.AsyncClient, kind: str, draw: random.Random) -> int | None:
    """One request; its status, None for a client that leaves."""
    chat: dict[str, Any] = {
        "model": "m", "messages": [{"role": "user", "content": draw.choice(QUESTIONS)}],
        "max_tokens": draw.randint(4, 24), "seed": draw.randrange(1 << 32), "temperature": 1.0,
    }  # fmt: skip
    path = "/v1/chat/completions"
    if kind == "streamed":
        async with client.stream("POST", path, json={**chat, "stream": True}) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        return answer.status_code if lines[-1] == "data: [DONE]" else 0
    if kind == "leaves in the middle":
        async with client.stream("POST", path, json={**chat, "stream": True, "max_tokens": 200}) as answer:
            lines = answer.aiter_lines()
            for _ in range(draw.randint(1, 5)):
                await anext(lines)
        return None
    if kind == "leaves before the first token":
        with pytest.raises(httpx.TimeoutException):
            await client.post(path, json={**chat, "max_tokens": 200}, timeout=draw.uniform(0.01, 0.3))
        return None
    if kind == "closes within the request":
        url = httpx.URL(str(client.base_url))
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000"
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        return None
    if kind == "completion":
        asked = {"model": "m", "prompt": [draw.choice(QUESTIONS)] * 2, "max_tokens": 8, "logprobs": 2}
        return (await client.post("/v1/completions", json=asked)).status_code
    body = {
        "whole": json.dumps(chat),
        "several answers": json.dumps({**chat, "n": 3, "stop": "。"}),
        "no JSON": json.dumps(chat)[: draw.randint(1, 60)],
        "too large": json.dumps({**chat, "user": "a" * (2 * MB)}),
        "another model": json.dumps({**chat, "model": "x"}),
        "wrong setting": json.dumps({**chat, "top_p": 2}),
    }[kind]
    headers = {"content-type": "application/json"}
    return (await client.post(path, content=body, headers=headers)).status_code


async def one_client(number: int, url: str, end: float, load: Load) -> None:
    """Ask until the time is over."""
    draw = random.Random(number)
    begun = time.monotonic()
    while time.monotonic() < end:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            for _ in range(draw.randint(1, 20)):  # on one connection
                (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
                status = await ask(client, kind, draw)
                load.counts[kind] += 1
                load.done.append(time.monotonic() - begun)
                if status not in (None, REFUSED.get(kind, 200)):
                    load.wrong.append(f"{kind}: {status}")
                if time.monotonic() >= end:
                    break


async def run(server: Server, seconds: float, clients: int) -> Load:
    """The load, and the memory meanwhile."""
    load, begun = Load(), time.monotonic()
    asking = [asyncio.create_task(one_client(i, server.url, begun + seconds, load)) for i in range(clients)]
    while not all(task.done() for task in asking):
        load.samples.append((time.monotonic() - begun, server.memory()))
        await asyncio.sleep(min(1.0, seconds / 60))
    await asyncio.gather(*asking)
    async with httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(100):  # who left is noticed before the next token
            page = (await client.get("/metrics")).text
            if "zhuzi_answers_active 0.0" in page and "zhuzi_answers_waiting 0.0" in page:
                break
            await asyncio.sleep(0.1)
        else:
            load.wrong.append("answers go on after all clients have left")
    return load


def growth(samples: list[tuple[float, int]]) -> float:
    """Bytes between beginning and end of a line fitted to the last two thirds."""
    last = [pair for pair in samples if pair[0] >= samples[-1][0] / 3]
    slope, _ = statistics.linear_regression([at for at, _ in last], [size for _, size in last])
    return slope * (last[-1][0] - last[0][0])


def curve(load: Load, parts: int) -> list[list[Any]]:
    """Rows: until when, requests so far, the median, lowest and highest memory of the part."""
    whole = load.samples[-1][0]
    rows: list[list[Any]] = []
    for part in range(parts):
        begin, end = whole * part / parts, whole * (part + 1) / parts
        sizes = [size / MB for at, size in load.samples if begin <= at <= end]
        asked = sum(at <= end for at in load.done)
        rows.append([f"{end / 60:.1f}", asked, *(round(f(sizes), 1) for f in (statistics.median, min, max))])
    return rows


def measure(args: Any) -> tuple[Load, list[list[Any]]]:
    """Serve, load, stop."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        server = Server(args.model, log)
        try:
            load = asyncio.run(run(server, args.seconds, args.clients))
            if code := server.stop():
                load.wrong.append(f"SIGTERM: exit code {code}")
        finally:
            server.process.kill()
            server.process.wait()
        load.wrong += [
            line for line in log.read_text().splitlines() if "Traceback" in line or "Error" in line
        ]
    return load, curve(load, args.parts)


def make_tiny(folder: Path) -> None:
    """A model with random weights, and a tokenizer."""
    from bench_init import small_tokenizer
    from bench_training import SIZES
    from transformers import LlamaConfig, LlamaForCausalLM

    from zhuzi.demo.sample import Sample

    sample = Sample.read(None, None, None)
    small_tokenizer(list(sample.en.train), 2000).save(folder)
    config = LlamaConfig(vocab_size=2000, max_position_embeddings=512, **SIZES["tiny"])
    LlamaForCausalLM(config).save_pretrained(folder)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("model", type=Path, help="model folder, or GGUF file")
    made.add_argument("--seconds", type=float, default=600)
    made.add_argument("--clients", type=int, default=50)
    made.add_argument("--parts", type=int, default=10, help="rows of the table")
    made.add_argument("--label", default="demo", help="what was served, for the record")
    made.add_argument("--record", type=Path, help="append the table to this file of records")
    return made


def main() -> None:
    args = parser().parse_args()
    recorder = Recorder("serve", args.label, args.record, PACKAGES)
    load, rows = measure(args)
    grown = growth(load.samples) / MB
    told = ", ".join(f"{count:,} {kind}" for kind, count in load.counts.most_common())
    sys.stdout.write(f"{told}\ngrowth in the last two thirds: {grown:+.1f} MB\n")
    recorder.table(
        "memory",
        f"{args.clients} clients for {args.seconds:g} seconds",
        ["minutes", "requests so far", "RssAnon, MB (median)", "lowest", "highest"],
        rows,
        rounds=1,
        clients=args.clients,
        growth_mb=round(grown, 1),
        requests=dict(load.counts),
    )
    if load.wrong:
        raise SystemExit("\n".join(["wrong:", *load.wrong[:20]]))


@pytest.mark.bench
def test_serve(tmp_path: Path) -> None:
    """The tiny form: nothing is wrong, and every kind of request came."""
    make_tiny(tmp_path)
    load, rows = measure(parser().parse_args([str(tmp_path), "--seconds", "20", "--parts", "2"]))
    assert not load.wrong and len(rows) == 2 and set(load.counts) == set(KINDS)


if __name__ == "__main__":
    main()
