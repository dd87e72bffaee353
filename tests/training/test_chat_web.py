"""`zhuzi chat --web`: the chat page with the options of chat, its address, the browser that opens it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zhuzi import Chat, Sampling
from zhuzi.cli import cli
from zhuzi.cli.browser import open_page
from zhuzi.infer.session import Session
from zhuzi.infer.templates import template_named

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="the extra `serve`")

OPTIONS = ("--system", "你是 <b>诗人</b>。", "--seed", "5", "--temperature", "0.33", "--no-history")


class Page:
    """`zhuzi chat --web` in a process of its own."""

    def __init__(self, model: Path, *options: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zhuzi", "chat", "--model", str(model), "--web", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": "", **environment},
        )
        assert self.process.stderr
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.fullmatch(r"chat: (http://127\.0\.0\.1:\d+)/ is the page; Ctrl-C ends it\n", line):
                self.url = found[1]
                return
        raise AssertionError("".join(self.lines))

    def ask(self, question: str, **options: Any) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], **options}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
        return str(answer.json()["choices"][0]["message"]["content"])

    @property
    def model(self) -> str:
        return str(httpx.get(f"{self.url}/v1/models").json()["data"][0]["id"])


@contextmanager
def chatting(model: Path, *options: str, **environment: str) -> Iterator[Page]:
    page = Page(model, *options, **environment)
    try:
        yield page
    finally:
        page.process.kill()
        page.process.communicate()


@pytest.fixture
def browser(tmp_path: Path) -> tuple[str, Path]:
    """A browser as $BROWSER names it, and the file with what it opened."""
    opened, program = tmp_path / "opened", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    program.chmod(0o755)
    return f"{program} %s", opened


def opened(file: Path) -> str:
    """What the browser, which is a process that nobody waits for, has opened."""
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return file.read_text()


def test_the_page_has_the_options_of_chat(model: Path, browser: tuple[str, Path]) -> None:
    with chatting(model, *OPTIONS, "--max-new-tokens", "12", BROWSER=browser[0]) as page:
        shown = httpx.get(page.url + "/").text
        assert "你是 &lt;b&gt;诗人&lt;/b&gt;。</textarea>" in shown
        assert re.search(r'id="seed"[^>]*value="5"', shown)
        assert re.search(r'id="turns"(?![^>]* checked)', shown)
        own = json.loads(re.findall(r"OWN = (\{.*?\})", shown)[0])
        assert own["temperature"] == 0.33 and own["max_tokens"] == 12
        sampling = Sampling(seed=5, temperature=0.33, max_new_tokens=12)
        said = "".join(Session(Chat.from_dir(model, device="cpu"), sampling=sampling).ask("你好"))
        assert page.ask("你好") == said
        assert opened(browser[1]) == page.url + "/\n"
        begun = time.monotonic()
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(60) == 0 and time.monotonic() - begun < 25
        assert page.process.stdout and page.process.stdout.read() == ""


def test_a_template_of_choice_and_no_browser(model: Path, tmp_path: Path, browser: tuple[str, Path]) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{%- for m in messages -%}{{ m.role }}: {{ m.content }}{{ eos_token }}{%- endfor -%}")
    chat = replace(Chat.from_dir(model, device="cpu"), template=template_named(str(file)))
    said = "".join(Session(chat, sampling=Sampling(seed=5, max_new_tokens=6)).ask("你好"))
    options = ("--template", str(file), "--seed", "5", "--max-new-tokens", "6", "--no-browser")
    with chatting(model, *options, BROWSER=browser[0]) as page:
        assert page.ask("你好") == said
        assert not browser[1].exists()


def test_a_browser_of_text_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda url: opened.set())
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert not open_page("http://127.0.0.1:1/")  # it would take the terminal
    monkeypatch.setattr("sys.platform", "darwin")  # has a screen, and none of these variables
    assert open_page("http://127.0.0.1:1/") and opened.wait(60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-browser"], "--no-browser goes with --web"),
        (["--web", "--no-markdown"], "--no-markdown goes without --web"),
        (["--web", "--template", "lama-2"], "did you mean 'llama-2'?"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], message: str, model: Path) -> None:
    result = CliRunner().invoke(cli, ["chat", "--model", str(model), *options])
    assert result.exit_code != 0 and message in result.output + str(result.exception)
