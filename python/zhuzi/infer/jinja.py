"""Chat templates in Jinja, as model folders, transformers, vLLM and llama.cpp have them, in a sandbox.

A template is a file of somebody else: jinja2's sandbox keeps it from running code, and what it may build is
bounded. It sees what transformers gives it: `messages`, `bos_token`, `eos_token`, `add_generation_prompt`,
`raise_exception` and `tojson`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zhuzi.errors import InputError
from zhuzi.infer.template import Message
from zhuzi.infer.text_template import TextTemplate

#: Characters that a template may add to those of its messages, and that a text in it may be repeated to.
_MOST = 1 << 20

#: Methods and filters that make a long text of a short one.
_GROWING = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}


class JinjaTemplate(TextTemplate):
    """A Jinja template."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self._source = name, source
        self._compiled = _compiled(name, source)

    @property
    def jinja(self) -> str:
        """The template's source."""
        return self._source

    def written(self, messages: Sequence[Message], variables: Mapping[str, str], *, asks: bool) -> str:
        """The text that it renders."""
        given = [{"role": message.role, "content": message.content} for message in messages]
        most = _MOST + 4 * sum(len(message.content) for message in messages)
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate(messages=given, add_generation_prompt=asks, **variables):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise InputError(f"the template {self.name} writes more than {most:,} characters")
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise InputError(f"the template {self.name}: {error}") from None
        except (RecursionError, ArithmeticError) as error:
            raise InputError(f"the template {self.name}: {type(error).__name__}, {error}") from None
        return "".join(parts)


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
