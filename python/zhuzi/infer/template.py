"""How a conversation becomes tokens: the same template in tuning, in chat and in every file that is written.

A template gives runs of ids, each encoded on its own. So it is known to the token what is a prompt and what
is an answer with its end, and a text never becomes a control token, whatever is in it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zhuzi.errors import InputError
from zhuzi.infer.prompt import PREFACE, PROMPT, format_prompt
from zhuzi.tokenizer import Tokenizer


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    """"system" (only the first), "user" or "assistant"."""
    content: str
    trained: bool = True
    """Whether tuning has a loss on it, if it is an answer."""


class Encoded(NamedTuple):
    """A conversation as ids."""

    ids: list[int]
    answers: tuple[int, ...]
    """Where each answer begins and ends in `ids`, its end token included: begin, end, begin, end, ..."""


class Run(NamedTuple):
    """A part of a conversation that is encoded on its own."""

    ids: list[int]
    answer: bool
    """Whether it is an answer, with its end, that is learned."""


class Template(ABC):
    """Turns conversations into ids."""

    name: str
    """What a recipe calls it; that of a Jinja file is the file's name."""

    @property
    @abstractmethod
    def jinja(self) -> str:
        """It as a chat template of transformers, vLLM and llama.cpp."""

    @abstractmethod
    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[Run]:
        """The parts of a conversation, in order; after a question they end where its answer begins.

        Raises:
            InputError: the template has no place for a message.
        """

    @abstractmethod
    def end_id(self, tokenizer: Tokenizer) -> int | None:
        """The id that ends an answer."""

    @abstractmethod
    def require(self, tokenizer: Tokenizer) -> None:
        """Raise `InputError` if the tokenizer lacks a token of the template."""

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message], most: int | None = None) -> Encoded:
        """A conversation as ids, and where its answers are in them; raises as `runs` does.

        With `most`, what comes after the first parts that have more ids than that is left out.
        """
        ids: list[int] = []
        answers: list[int] = []
        for run in self.runs(tokenizer, messages):
            if run.answer:
                answers += (len(ids), len(ids) + len(run.ids))
            ids += run.ids
            if most is not None and len(ids) > most:
                break
        return Encoded(ids, tuple(answers))

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids after which a model writes its answer to the last message. Raises as `runs` does."""
        return self.encode(tokenizer, messages).ids


class Alpaca(Template):
    """The published prompt of Chinese Alpaca (`zhuzi.infer.prompt`), once for each question.

    Prompt and answer are encoded separately, as published: BOS + encode(prompt) + encode(answer) + EOS. A
    system prompt stands in place of the prompt's first two sentences, as in FastChat and LLaMA-Factory.
    """

    name = "alpaca"

    @property
    def jinja(self) -> str:
        """It as a chat template, BOS before each question, EOS after each answer.

        Prompts have the ids of tuning. An answer in an earlier turn may not: engines encode it together with
        its prompt.
        """
        before, after = (json.dumps(part) for part in PROMPT.removeprefix(PREFACE).split("{instruction}"))
        return (
            f"{{%- set ns = namespace(preface={json.dumps(PREFACE)}) -%}}\n"
            "{%- for message in messages -%}\n"
            "{%- if message['role'] == 'system' -%}\n"
            "{%- set ns.preface = message['content'] -%}\n"
            "{%- elif message['role'] == 'user' -%}\n"
            f"{{{{- bos_token + ns.preface + {before} + message['content'] + {after} -}}}}\n"
            "{%- elif message['role'] == 'assistant' -%}\n"
            "{{- message['content'] + eos_token -}}\n"
            "{%- else -%}\n"
            "{{- raise_exception('the published prompt has no place for a message of the role ' + "
            "message['role']) -}}\n"
            "{%- endif -%}\n"
            "{%- endfor -%}\n"
        )

    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[Run]:
        """The parts of a conversation, in order."""
        bos, eos = self._ids(tokenizer)
        preface = PREFACE
        for message in messages:
            if message.role == "system":
                preface = message.content
            elif message.role == "user":
                prompt = format_prompt(message.content, preface=preface)
                yield Run([bos, *tokenizer.encode(prompt)], answer=False)
            else:
                learned = message.trained and bool(message.content.strip())
                yield Run([*tokenizer.encode(message.content), *([] if eos is None else [eos])], learned)

    def end_id(self, tokenizer: Tokenizer) -> int | None:
        """EOS."""
        return tokenizer.eos_id

    def require(self, tokenizer: Tokenizer) -> None:
        """Raise `InputError` if the tokenizer has no BOS."""
        self._ids(tokenizer)

    @staticmethod
    def _ids(tokenizer: Tokenizer) -> tuple[int, int | None]:
        if tokenizer.bos_id is None:
            raise InputError("the tokenizer has no BOS id, with which every prompt of tuning begins")
        return tokenizer.bos_id, tokenizer.eos_id


#: The published template, which tuning and chat take where no other is named.
ALPACA = Alpaca()
