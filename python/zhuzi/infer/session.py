"""A conversation with a model over several turns: what was said, what still fits, and its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zhuzi._show import count
from zhuzi.errors import InputError
from zhuzi.infer.chat import Answer, Chat
from zhuzi.infer.sampling import Sampling
from zhuzi.infer.template import Message
from zhuzi.record.json_file import read_object
from zhuzi.record.output import new_file

#: A conversation's file is no longer than this, in bytes.
_MOST = 64 << 20


class Session:
    """Questions and answers with a model. Each question is asked after those before it.

    Args:
        chat: model, tokenizer and template.
        system: the system prompt; none if empty.
        sampling: how answers are drawn.
        history: False asks each question on its own.
    """

    def __init__(
        self, chat: Chat, *, system: str = "", sampling: Sampling | None = None, history: bool = True
    ) -> None:
        self.chat, self.system, self.history = chat, system, history
        self.sampling = sampling or Sampling()
        self.messages: list[Message] = []
        """Questions and answers so far, without the system prompt."""
        self.dropped = 0
        """Questions at the beginning that the last one left no room for."""

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece. What of it was given is remembered, though the iteration may end early.

        The first questions are left out where the model's positions have no room for all (`dropped`).

        Raises:
            InputError: even alone the question has no room, or the template none for the system prompt.
        """
        asked = self._fitting([*(self.messages if self.history else ()), Message("user", question)])
        return self._remembered(question, self.chat.answer(asked, sampling=self.sampling))

    def _remembered(self, question: str, answer: Answer) -> Iterator[str]:
        self.last = answer
        written: list[str] = []
        try:
            for piece in answer:
                written.append(piece)
                yield piece
        finally:
            if written:
                text = "".join(written).strip()
                self.messages += [Message("user", question), Message("assistant", text)]

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """The last messages that leave room for an answer, after the system prompt."""
        system = [Message("system", self.system)] if self.system else []
        positions = self.chat.positions
        self.dropped = 0
        while positions is not None and len(messages) > 1:
            room = positions - len(self.chat.prompt([*system, *messages]))
            if room >= min(self.sampling.max_new_tokens, positions // 4):
                break
            messages = messages[2:]
            self.dropped += 1
        return [*system, *messages]

    @property
    def questions(self) -> int:
        """Questions that are remembered."""
        return len(self.messages) // 2

    def undo(self) -> str | None:
        """Forget the last question and its answer; the question, None if there is none."""
        if not self.messages:
            return None
        *self.messages, question, _ = self.messages
        return question.content

    def reset(self) -> None:
        """Forget all questions; the system prompt stays."""
        self.messages = []

    def save(self, path: Path) -> None:
        """Write the conversation as a line of JSON, which `zhuzi sft` reads as a record.

        Raises:
            OutputExistsError: a file is there that no session wrote.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        told = [{"role": message.role, "content": message.content} for message in self.messages]
        with new_file(path, kind="conversation", overwrite=True) as made:
            # On one line: a record of JSON Lines.
            held = {"messages": [*system, *told], "sampling": asdict(self.sampling)}
            made.write_text(json.dumps(held, ensure_ascii=False) + "\n", "utf-8")

    def load(self, path: Path) -> None:
        """Go on from a conversation's file, in place of this one; its settings of sampling apply.

        Raises:
            InputError: it is none.
        """
        if path.stat().st_size > _MOST:
            raise InputError(f"{path}: too large for a conversation; name a file of /save")
        held = read_object(path, InputError)
        messages = list(_messages(held.get("messages"), path))
        settings = held.get("sampling") or {}
        try:
            sampling = replace(self.sampling, **settings)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: sampling: {error}") from None
        self.system, self.sampling = "", sampling
        if messages and messages[0].role == "system":
            self.system = messages.pop(0).content
        self.messages = messages

    def set(self, name: str, value: str) -> None:
        """Change a setting by its name, as in `("temperature", "0.5")`.

        Raises:
            ValueError: an unknown setting or an invalid value.
        """
        if name in ("seed", "top_k", "max_new_tokens"):
            given: Any = None if name == "seed" and value == "none" else _number(name, value, int)
        elif name in asdict(self.sampling):
            given = _number(name, value, float)
        elif name == "history":
            if value not in ("on", "off"):
                raise ValueError(f"history: want on or off, not {value!r}")
            self.history = value == "on"
            return
        else:
            raise ValueError(f"{name} is no setting; there are {', '.join(self.settings())}")
        self.sampling = replace(self.sampling, **{name: given})

    def settings(self) -> dict[str, str]:
        """The settings and their values."""
        held = {name: _shown(value) for name, value in asdict(self.sampling).items()}
        return {**held, "history": "on" if self.history else "off"}

    def __repr__(self) -> str:
        return f"Session({count(self.questions, 'question')})"


def _shown(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(name: str, value: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}: want {what}, not {value!r}") from None


def _messages(given: Any, path: Path) -> Iterator[Message]:
    """The messages of a conversation's file: questions with their answers, a system prompt before them."""
    wrong = InputError(f"{path}: no conversation with messages; name a file of /save")
    if not isinstance(given, list):
        raise wrong
    wanted = "user"
    for at, message in enumerate(given):
        if not (isinstance(message, dict) and isinstance(message.get("content"), str)):
            raise wrong
        role = message.get("role")
        if role == "system" and at == 0:
            yield Message("system", message["content"])
            continue
        if role != wanted:
            raise InputError(f"{path}: message {at + 1} has the role {json.dumps(role)}; want {wanted}")
        wanted = "assistant" if wanted == "user" else "user"
        yield Message(str(role), message["content"])
    if wanted == "assistant":
        raise InputError(f"{path}: its last question has no answer")
