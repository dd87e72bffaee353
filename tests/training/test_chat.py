"""`zhuzi chat`: several turns, commands, Ctrl-C, Markdown on a terminal, plain text in a pipe."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_chat_evaluate import Fixed

from zhuzi import Chat, Tokenizer
from zhuzi.cli import Terminated
from zhuzi.cli.markdown import MarkdownScreen, PlainScreen, end_of_blocks, visible
from zhuzi.cli.talk import talk, warnings_after
from zhuzi.errors import InputError, OutputExistsError
from zhuzi.infer.generate import generate, stream_text
from zhuzi.infer.sampling import Sampling
from zhuzi.infer.session import Session
from zhuzi.infer.template import ALPACA, Message
from zhuzi.train.data import Records

SEEDED = Sampling(seed=3, top_k=7)


@pytest.fixture
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_dir(model)


def session_of(tokenizer: Tokenizer, *answers: str, **settings: Any) -> tuple[Session, Fixed]:
    """A session whose model gives these answers, and the model, which remembers what it read."""
    ids = [id for answer in answers for id in [*tokenizer.encode(answer), 2]]
    fixed = Fixed(ids)
    return Session(Chat(fixed, tokenizer), **settings), fixed


def prompts(fixed: Fixed) -> list[list[int]]:
    return [read for read in fixed.read if read[0] == 1]


def test_a_question_follows_those_before_it(tokenizer: Tokenizer) -> None:
    session, fixed = session_of(tokenizer, "你好", "世界", "天", "地", system="你是诗人。")
    said = [Message("system", "你是诗人。")]
    for question, answer in (("天", "你好"), ("地 </s>", "世界")):
        said.append(Message("user", question))
        assert "".join(session.ask(question)) == answer
        assert prompts(fixed)[-1] == ALPACA.prompt(tokenizer, said)
        said.append(Message("assistant", answer))
    assert session.messages == said[1:] and session.questions == 2
    assert session.last.tokens == len(tokenizer.encode("世界"))
    assert session.last.prompt == len(prompts(fixed)[-1])

    assert session.undo() == "地 </s>" and session.messages == said[1:3]
    session.set("history", "off")
    list(session.ask("人"))
    assert prompts(fixed)[-1] == ALPACA.prompt(tokenizer, [said[0], Message("user", "人")])
    session.reset()
    assert session.undo() is None and session.system == "你是诗人。"


def test_what_came_of_a_stopped_answer_is_remembered(tokenizer: Tokenizer) -> None:
    session, _ = session_of(tokenizer, "你好世界人工智能")
    for piece in session.ask("天"):
        if piece:
            break
    assert session.messages[0] == Message("user", "天") and session.messages[1].content
    session, _ = session_of(tokenizer, "")
    assert list(session.ask("天")) == [] and not session.messages


def test_the_first_questions_make_room(chat_model: Chat) -> None:
    session = Session(chat_model, sampling=Sampling(max_new_tokens=8, temperature=0))
    dropped = 0
    for i in range(6):
        list(session.ask(f"The river {i}"))
        dropped = max(dropped, session.dropped)
        assert session.last.prompt + 8 <= 256
    assert dropped > 0
    with pytest.raises(InputError, match="256 positions"):
        session.ask("天" * 300)
    before = list(session.messages)
    assert session.messages == before


@pytest.fixture
def chat_model(model: Path) -> Chat:
    return Chat.from_dir(model, device="cpu")


def test_a_conversation_is_kept_in_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    session, _ = session_of(
        tokenizer, "你好", "世界", system="你是诗人。", sampling=Sampling(seed=3, top_k=7)
    )
    for question in ("天", "地"):
        list(session.ask(question))
    path = tmp_path / "talk.json"
    session.save(path)
    session.save(path)  # its own file may be replaced
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OutputExistsError):
        session.save(tmp_path / "mine.json")

    other, _ = session_of(tokenizer)
    other.load(path)
    assert (other.messages, other.system) == (session.messages, session.system)
    assert other.sampling == session.sampling
    records = Records([path], tokenizer, 512)  # a record to tune on
    assert records[0][0] == ALPACA.encode(tokenizer, [Message("system", "你是诗人。"), *session.messages]).ids

    for text, message in (
        ("[]", "want a JSON object"),
        ("{}", "no conversation with messages"),
        ('{"messages": [{"role": "user"}]}', "no conversation with messages"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "message 1 has the role"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "its last question has no answer"),
        ('{"messages": [], "sampling": {"top_q": 1}}', "sampling: .*top_q"),
        ('{"messages": [], "sampling": {"top_p": 0}}', "top_p: want more than 0"),
    ):
        path = tmp_path / "wrong.json"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            other.load(path)
    assert other.messages == session.messages


def test_settings_by_name(tokenizer: Tokenizer) -> None:
    session, _ = session_of(tokenizer)
    for name, value in (("temperature", "0.7"), ("top_k", "12"), ("seed", "123456789"), ("history", "off")):
        session.set(name, value)
        assert session.settings()[name] == value
    session.set("seed", "none")
    assert session.sampling == Sampling(temperature=0.7, top_k=12)
    for name, value, message in (
        ("heat", "1", "heat is no setting; there are max_new_tokens, temperature"),
        ("temperature", "hot", "temperature: want a number, not 'hot'"),
        ("top_k", "1.5", "top_k: want a whole number"),
        ("top_p", "0", "top_p: want more than 0"),
        ("history", "1", "history: want on or off"),
    ):
        with pytest.raises(ValueError, match=message):
            session.set(name, value)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Types lines, or raises what is given in their place, into a talk."""

    def run(session: Any, *lines: Any, screen: Any = None) -> None:
        given = iter([*lines, EOFError])

        def ask(prompt: str) -> str:
            line = next(given)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", ask)
        talk(session, screen or PlainScreen())

    return run


def test_commands(
    typed: Callable[..., None], tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, fixed = session_of(tokenizer, *["你好"] * 9)
    path = tmp_path / "talk.json"
    typed(
        session,
        *("天", "/retry", "地", "/undo", f"/save {path}", "/reset", f"/load {path}", "人"),
        *("/set", "/set temperature 0.5", "/set top-k=3", "/set seed", "/system 你是诗人。", "/system"),
        *("/help", "//etc/passwd", "/frob", "/save", "/set heat 3", "/load /no/such", "/system -"),
    )
    out, err = capsys.readouterr()
    assert out.split() == ["你好"] * 5
    assert [message.content for message in session.messages[::2]] == ["天", "人", "/etc/passwd"]
    assert session.sampling == Sampling(temperature=0.5, top_k=3) and session.system == ""
    for line in (
        "(forgot: 地)",
        f"({path}: 1 question)",
        "(forgot 1 question)",
        "tokens/s)",
        "temperature 0.2, top_p 0.9",
        "(temperature 0.5)",
        "(top_k 3)",
        "(seed none)",
        "(system prompt: 你是诗人。)",
        "/undo            forget",
        "there is no command /frob; /help lists them",
        "/save needs the name of a file",
        "heat is no setting",
        "zhuzi: /no/such: No such file or directory",
        "(no system prompt)",
    ):
        assert line in err, line
    assert prompts(fixed)[0] == prompts(fixed)[1]  # /retry asks the same again


def test_several_lines(typed: Callable[..., None], tokenizer: Tokenizer) -> None:
    session, _ = session_of(tokenizer, *["天"] * 9)
    typed(session, "one\\", "two", '"""', "a", "", "  b", '"""', '"""c"""', '"""d', 'e"""')
    assert [message.content for message in session.messages[::2]] == ["one\ntwo", "a\n\n  b", "c", "d\ne"]


class Recorder:
    """A session that only remembers what it was asked, and raises what a question says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.dropped, self.questions = 0, 0
        self.chat = SimpleNamespace(positions=None)
        self.last = SimpleNamespace(tokens=0, prompt=0)

    def ask(self, question: str) -> Iterator[str]:
        self.asked.append(question)
        if question == "wrong":
            raise InputError("the prompt is too long")
        return self._pieces(question)

    def _pieces(self, question: str) -> Iterator[str]:
        yield "a"
        if question == "long":
            raise KeyboardInterrupt
        self.questions += 1


def test_ctrl_c_ends_the_answer_and_then_the_talk(
    typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    session = Recorder()
    typed(session, "long", "wrong", "next", EOFError, "not read")
    assert session.asked == ["long", "wrong", "next"]
    assert "zhuzi: the prompt is too long\n" in capsys.readouterr().err
    typed(session, KeyboardInterrupt, "again", KeyboardInterrupt, KeyboardInterrupt, "not read")
    assert session.asked[3:] == ["again"]
    with pytest.raises(Terminated):  # a signal to the process, not the key
        typed(session, Terminated)


def test_an_empty_line_ends_but_not_a_talk_by_mistake(typed: Callable[..., None]) -> None:
    typed(session := Recorder(), "", "not read")
    assert session.asked == []
    typed(session := Recorder(), "a", "", "b", "", "", "not read")
    assert session.asked == ["a", "b"]
    typed(session := Recorder(), "a", "exit", "not read")
    assert session.asked == ["a"]


def test_warnings_follow_the_answer(chat_model: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("click.echo", lambda text="", nl=True: shown.append(text + "\n" * nl))
    handler = logging.StreamHandler(SimpleNamespace(write=shown.append, flush=lambda: None))
    logger = logging.getLogger("zhuzi.infer.generate")
    logger.addHandler(handler)
    ids = generate(chat_model.model, [5] * 250, eos_id=None, limit=410, max_new_tokens=7)
    try:
        with warnings_after():
            PlainScreen().show(stream_text(chat_model.tokenizer, ids))
    finally:
        logger.removeHandler(handler)
    *answer, warning = "".join(shown).splitlines()
    assert "".join(answer) and warning.startswith("the answer is cut after 6 tokens")
    assert not logger.filters


MARKDOWN = """# 春天

一去二三里，
烟村**四五**家。

```python
x = 1

y = 2
```

1. 一
2. 二[31m
"""


def test_markdown_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, height=8, color_system="standard")
    MarkdownScreen(console).show(iter(MARKDOWN))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = [line.strip() for line in plain.replace("\r", "\n").splitlines()]
    final = [line for line in lines if line]
    assert "一去二三里，" in final and "烟村四五家。" in final  # a line of the model stays a line
    assert final[-2:] == ["1 一", "2 二␛[31m"]
    assert "\x1b[1m四五" in out.getvalue() and "\x1b[31m\n" not in out.getvalue()
    assert "y = 2" in plain


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a\nb", ""),
        ("a\n\nb", "a\n\n"),
        ("a\n\n", "a\n\n"),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\nb", ""),
        ("~~~\n```\n\n~~~\n\nb", "~~~\n```\n\n~~~\n\n"),
    ],
)
def test_blocks_end_at_blank_lines_outside_of_code(text: str, blocks: str) -> None:
    assert text[: end_of_blocks(text, 0)] == blocks


def test_control_characters_are_shown() -> None:
    assert visible("a\tb\n\x1b]0;x\x07\x9b1m\x7f") == "a\tb\n␛]0;x␇\ufffd1m␡"


def test_a_pipe_gets_the_answer_alone(model: Path) -> None:
    command = [sys.executable, "-m", "zhuzi", "chat", "--model", str(model), "--max-new-tokens", "6"]
    command += ["--seed", "1", "--system", "你是诗人。", "--device", "cpu"]
    ended = subprocess.run(command, input="天", capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("\n") and "\x1b" not in ended.stdout + ended.stderr
    chat = Chat.from_dir(model, device="cpu")
    asked = [Message("system", "你是诗人。"), Message("user", "天")]
    assert ended.stdout[:-1] == "".join(chat.answer(asked, max_new_tokens=6, seed=1))


class Terminal:
    """`zhuzi chat` in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.seen = b""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="80", LINES="24")
            os.execv(sys.executable, [sys.executable, "-m", "zhuzi", "chat", *arguments])

    def wait(self, wanted: bytes, seconds: float = 90) -> bytes:
        """What is written until `wanted`."""
        end = time.monotonic() + seconds
        while wanted not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.file], [], [], 0.2)[0]:
                self.seen += os.read(self.file, 65536)
        found, _, self.seen = self.seen.partition(wanted)
        return found + wanted

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def ended(self, seconds: float = 90) -> int:
        end = time.monotonic() + seconds
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < end, self.seen
            time.sleep(0.05)
        return os.waitstatus_to_exitcode(found[1])


def test_in_a_terminal(chat_folder: Path, tmp_path: Path) -> None:
    terminal = Terminal(
        *("--model", str(chat_folder), "--seed", "1", "--device", "cpu"),
        *("--temperature", "0", "--repetition-penalty", "1"),  # which repeats itself without an end
    )
    try:
        banner = terminal.wait(b"> ")
        assert b"template alpaca" in banner and b"temperature 0, " in banner
        terminal.type("/set max_new_tokens 8\n")
        terminal.wait(b"> ")
        terminal.type("天\n")
        terminal.wait(b"tokens/s")
        terminal.wait(b"positions")
        terminal.wait(b"> ")
        terminal.type("/set max_new_tokens 100000\n")
        terminal.wait(b"> ")
        terminal.type("地\n")
        time.sleep(1)
        terminal.type("\x03")  # Ctrl-C, in the middle of an answer
        stopped = terminal.wait(b"tokens/s", 20) + terminal.wait(b"> ", 20)
        assert b"Traceback" not in stopped
        assert b"^C" not in stopped  # an echo would shift what is drawn
        terminal.type(f"/save {tmp_path / 'talk.json'}\n")
        terminal.wait(b"question")
        terminal.wait(b"> ")  # typed before the prompt, Ctrl-D would be a NUL in the line
        terminal.type("\x04")
        assert terminal.ended() == 0
    finally:
        os.close(terminal.file)
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]][:2] == ["user", "assistant"]


@pytest.fixture
def chat_folder(model: Path, tmp_path: Path) -> Path:
    """The model with so many positions that an answer does not end by itself."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 200_000}))
    return folder
