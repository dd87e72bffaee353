"""Chat templates in Jinja, as model folders, transformers, vLLM and llama.cpp have them, in a sandbox.

A template is a file of somebody else: jinja2's sandbox keeps it from running code, and what it may build is
bounded. It sees what transformers gives it: `messages`, `bos_token`, `eos_token`, `add_generation_prompt`,
`raise_exception` and `tojson`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zhuzi.errors import InputError
from zhuzi.infer.template import Message, Run, Template
from zhuzi.tokenizer import Tokenizer

#: Characters that a template may add to those of its messages, and that a text in it may be repeated to.
_MOST = 1 << 20

#: Methods and filters that make a long text of a short one.
_GROWING = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}

# Stands around the number of a special token whose text is in a message: there it is text.
_MARK = "\U000f0000"


class JinjaTemplate(Template):
    """A Jinja template. What is between two special tokens is encoded as one text, as in transformers.

    An answer begins where the template, told to, stops for it, and ends with the next special token.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self._source = name, source
        self._compiled = _compiled(name, source)

    @property
    def jinja(self) -> str:
        """The template's source."""
        return self._source

    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[Run]:
        """The parts of a conversation, in order."""
        special = _Special.of(tokenizer)
        hidden = [message._replace(content=special.hidden(message.content)) for message in messages]
        whole = self._rendered(special, hidden, asks=not hidden or hidden[-1].role != "assistant")
        at = 0
        before = ""  # the text since the last special token
        for i, message in enumerate(hidden):
            if message.role != "assistant":
                continue
            begin = len(self._prefix(special, hidden[:i], whole, asks=True))
            end = len(self._prefix(special, hidden[: i + 1], whole))
            prompt = whole[at:begin]
            yield Run(special.encoded(prompt, before), answer=False)
            before = special.tail(before + prompt)
            at = self._end_of_answer(special, whole, begin, end, message.content)
            learned = message.trained and bool(message.content.strip())
            yield Run(special.encoded(whole[begin:at], before), learned)
            before = ""
        if at < len(whole):
            yield Run(special.encoded(whole[at:], before), answer=False)

    def end_id(self, tokenizer: Tokenizer) -> int | None:
        """The special token that the template writes after an answer."""
        probe = [Message("user", "a"), Message("assistant", "b")]
        ends = [run.ids[-1] for run in self.runs(tokenizer, probe) if run.answer]
        return ends[-1]

    def require(self, tokenizer: Tokenizer) -> None:
        """Raise `InputError` if a conversation cannot be rendered, or an answer has no end."""
        self.end_id(tokenizer)

    def _prefix(
        self, special: _Special, messages: Sequence[Message], whole: str, *, asks: bool = False
    ) -> str:
        """The beginning of the conversation, which must be that of the whole."""
        part = self._rendered(special, messages, asks=asks)
        if not whole.startswith(part):
            raise InputError(
                f"the template {self.name} writes earlier messages otherwise once others follow, so it is "
                "not known where an answer begins; take a template that only appends"
            )
        return part

    def _end_of_answer(self, special: _Special, whole: str, begin: int, end: int, content: str) -> int:
        """Where the special token after an answer ends."""
        written = whole.find(content.strip(), begin, end)
        after = begin if written < 0 else written + len(content.strip())
        found = special.pattern.search(whole, after, end)
        if found is not None:
            return found.end()
        looks = dict.fromkeys(re.findall(r"<\|?/?[A-Za-z]\w*\|?>", self._source))
        missing = ", ".join(token for token in looks if token not in special.ids)
        mend = "write {{ eos_token }} after an answer"
        if missing:
            mend = f"add {missing} with `zhuzi vocab merge --add-token`, and extend the model"
        raise InputError(
            f"the template {self.name} ends an answer with no special token of the tokenizer, so a model "
            f"tuned with it would not stop; {mend}"
        )

    def _rendered(self, special: _Special, messages: Sequence[Message], *, asks: bool = False) -> str:
        given = [{"role": message.role, "content": message.content} for message in messages]
        most = _MOST + 4 * sum(len(message.content) for message in messages)
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate(
                messages=given, add_generation_prompt=asks, **special.variables
            ):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise InputError(f"the template {self.name} writes more than {most:,} characters")
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise InputError(f"the template {self.name}: {error}") from None
        except (RecursionError, ArithmeticError) as error:
            raise InputError(f"the template {self.name}: {type(error).__name__}, {error}") from None
        return "".join(parts)


class _Special:
    """The special tokens of a tokenizer, as texts in a rendered template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        control = {p.text: id for id, p in enumerate(tokenizer.pieces()) if p.kind == "CONTROL" and p.text}
        self.ids = control
        self.texts = list(control)
        longest_first = sorted(control, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        self.variables: Mapping[str, str] = {
            name: "" if id is None else tokenizer.id_to_token(id) for name, id in named.items()
        }

    @staticmethod
    @lru_cache(maxsize=4)
    def of(tokenizer: Tokenizer) -> _Special:
        """That of a tokenizer; made once, as it walks over all pieces."""
        return _Special(tokenizer)

    def hidden(self, text: str) -> str:
        """A message in which no special token is seen."""
        if _MARK in text:
            raise InputError("a message holds U+F0000, a character without a meaning; take it out")
        return self.pattern.sub(lambda found: f"{_MARK}{self.texts.index(found[0])}{_MARK}", text)

    def _shown(self, text: str) -> str:
        if _MARK not in text:
            return text
        return re.sub(f"{_MARK}([0-9]+){_MARK}", lambda found: self.texts[int(found[1])], text)

    def tail(self, text: str) -> str:
        """What follows the last special token."""
        return self.pattern.split(text)[-1]

    def encoded(self, text: str, before: str) -> list[int]:
        """Ids of a part of a rendered template; `before` is the text in front of it since a special token."""
        ids: list[int] = []
        at = 0
        for found in self.pattern.finditer(text):
            ids += self._text_ids(text[at : found.start()], before)
            ids.append(self.ids[found[0]])
            at, before = found.end(), ""
        return ids + self._text_ids(text[at:], before)

    def _text_ids(self, text: str, before: str) -> list[int]:
        text, before = self._shown(text), self._shown(before)
        if not text:
            return []
        if not before:
            return self.tokenizer.encode(text)
        ours = self.tokenizer.encode(before)
        both = self.tokenizer.encode(before + text)
        if both[: len(ours)] == ours:
            return both[len(ours) :]
        # A token would span both: what a model has read is not encoded anew, so this begins one of its own.
        return self.tokenizer.encode_piece(text.replace(" ", "▁"))


class _Generation(Extension):
    """`{% generation %}`, with which some templates mark answers for transformers, changes nothing here."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 has it

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, which also bounds how a text can be made long."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**` and `%`, which could fill the memory."""
        if operator == "**":
            raise jinja2.TemplateRuntimeError("** is not for templates")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(text, "__len__") and len(text) * times > _MOST:
                    raise jinja2.TemplateRuntimeError(f"a text is repeated {times:,} times")
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("% on a text is not for templates; use ~")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """`format` of a text, which can pad it without a bound."""
        if getattr(value, "__name__", None) in _GROWING and isinstance(getattr(value, "__self__", None), str):
            raise jinja2.TemplateRuntimeError(f"{value.__name__} is not for templates; use ~")
        return super().wrap_str_format(value)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use it: no method that makes a long text of a short one."""
        if attr in _GROWING and isinstance(obj, str):
            return False
        return super().is_safe_attribute(obj, attr, value)


@lru_cache(maxsize=16)
def _compiled(name: str, source: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    for growing in _GROWING & environment.filters.keys():
        del environment.filters[growing]
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(source)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise InputError(f"{name}{line}: not a Jinja template ({error})") from None


def _to_json(value: Any, indent: int | None = None) -> str:
    # jinja2's own escapes HTML.
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 16))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
