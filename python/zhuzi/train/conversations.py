"""Conversations out of records: Alpaca, ShareGPT, `messages`, self-instruct seeds, and others by a map.

A record that is none of them, or that is damaged, is an error that says how to mend it; nothing is dropped
silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhuzi.errors import InputError
from zhuzi.infer.prompt import question
from zhuzi.infer.template import Message
from zhuzi.train.alpaca import KEYS, check_texts, kind_of, require_text

Conversation = list[Message]

#: What a map can name: fields of Alpaca's records, the list of messages, fields of a message, and its roles.
MAPPED = (
    *("instruction", "input", "output", "system", "history"),
    *("messages", "role", "content", "user", "assistant"),
)

_LISTS = ("messages", "conversations", "conversation")
_READ = (*KEYS, "system", "history", *_LISTS, "instances")
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_TOOLS = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_ASIDE = "take the record out, or write `on_error: skip` into the recipe"


def conversations_of(record: Any, place: str, fields: Mapping[str, str] | None = None) -> list[Conversation]:
    """The conversations of a record, mostly one. A question at the end may be without an answer.

    Args:
        place: file and place of the record, for messages.
        fields: what the record calls each of `MAPPED`, where it is not the usual name.

    Raises:
        InputError: it is no record of a known format, or a damaged one.
    """
    fields = fields or {}
    if isinstance(record, dict) and fields:
        record = _renamed(record, place, fields)
    if isinstance(record, dict) and not _is_alpaca(record):
        for key in _LISTS:
            if record.get(key) is not None:
                return [_chat(record, key, place, fields)]
        if isinstance(record.get("instances"), list) and record.get("instruction") is not None:
            return _seed(record, place)
    return [_alpaca(record, place)]


def unread_keys(record: Mapping[str, Any], fields: Mapping[str, str] | None = None) -> list[str]:
    """Keys of a record that have a value but are not read by tuning."""
    named = {path.partition(".")[0] for path in (fields or {}).values()}
    known = {*_READ, *named}
    return [key for key, value in record.items() if key not in known and value not in (None, "", [], {})]


def _is_alpaca(record: Mapping[str, Any]) -> bool:
    return record.get("instruction") is not None and record.get("output") is not None


def _alpaca(record: Any, place: str) -> Conversation:
    check_texts(record, place)
    before = _system(record.get("system"), f"{place}: 'system'")
    for at, turn in enumerate(record.get("history") or (), start=1):
        if not (isinstance(turn, list | tuple) and len(turn) == 2):
            raise InputError(
                f"{place}: turn {at} of 'history' is {kind_of(turn)}; want a list of [question, answer]"
            )
        for role, text in zip(("user", "assistant"), turn, strict=True):
            before.append(Message(role, require_text(text, f"{place}: turn {at} of 'history'")))
    asked = question(record["instruction"], record.get("input") or "")
    return [*before, Message("user", asked), Message("assistant", record["output"])]


def _seed(record: Mapping[str, Any], place: str) -> list[Conversation]:
    """Self-instruct's seed tasks: an instruction, and instances of input and output."""
    found = []
    for at, instance in enumerate(record["instances"], start=1):
        if not isinstance(instance, dict):
            raise InputError(f"{place}: instance {at} is {kind_of(instance)}; want an object")
        whole = {"instruction": record["instruction"], **{key: instance.get(key) for key in KEYS[1:]}}
        found.append(_alpaca(whole, f"{place}: instance {at}"))
    if not found:
        raise InputError(f"{place}: 'instances' is empty; {_ASIDE}")
    return found


def _chat(record: Mapping[str, Any], key: str, place: str, fields: Mapping[str, str]) -> Conversation:
    turns = record[key]
    if not isinstance(turns, list):
        raise InputError(f"{place}: {key!r} is {kind_of(turns)}; want a list of messages")
    messages = _system(record.get("system"), f"{place}: 'system'")
    for at, turn in enumerate(turns, start=1):
        for message in _messages(turn, f"{place}: message {at}", fields):
            if message.role == "system" and messages and at == 1:
                raise InputError(f"{place}: has a system prompt in 'system' and in its messages; keep one")
            _require_turn(message.role, messages, f"{place}: message {at}")
            messages.append(message)
    if not messages:
        raise InputError(f"{place}: {key!r} holds no messages; {_ASIDE}")
    return messages


def _messages(turn: Any, place: str, fields: Mapping[str, str]) -> Conversation:
    """The message of a turn; two if it is a question with its answer."""
    if not isinstance(turn, dict):
        raise InputError(f"{place} is {kind_of(turn)}; want an object with role and content")
    if "human" in turn and "assistant" in turn:
        return [
            Message("user", require_text(turn["human"], f"{place}: 'human'")),
            Message("assistant", require_text(turn["assistant"], f"{place}: 'assistant'")),
        ]
    pairs = [("role", "content"), ("from", "value")]
    if "role" in fields or "content" in fields:
        pairs = [(fields.get("role", "role"), fields.get("content", "content"))]
    for role_key, text_key in pairs:
        if role_key in turn and text_key in turn:
            break
    else:
        raise InputError(
            f"{place} has {', '.join(map(repr, turn)) or 'no keys'}; want role and content, or from and "
            "value (other names: `map: {role: ..., content: ...}` in the recipe)"
        )
    role = _role(turn[role_key], place, fields)
    if turn.get("tool_calls") or turn.get("function_call"):
        raise InputError(f"{place} calls a tool, for which tuning has no place; {_ASIDE}")
    weight = turn.get("weight", 1)
    return [Message(role, _content(turn[text_key], f"{place}: {text_key!r}"), weight not in (0, False))]


def _role(given: Any, place: str, fields: Mapping[str, str]) -> str:
    named = {fields[role]: role for role in ("user", "assistant") if role in fields}
    role = named.get(given) or _ROLES.get(given) if isinstance(given, str) else None
    if role is not None:
        return role
    if given in _TOOLS:
        raise InputError(f"{place} has the role {given!r}: tuning has no place for tools; {_ASIDE}")
    raise InputError(
        f"{place} has the role {given!r}; want system, user or assistant (other names: "
        "`map: {user: ..., assistant: ...}` in the recipe)"
    )


def _content(content: Any, place: str) -> str:
    """The text of a message; of several parts, if all are text."""
    if not isinstance(content, list):
        return require_text(content, place)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type", "text") != "text":
            what = repr(part.get("type")) if isinstance(part, dict) else kind_of(part)
            raise InputError(f"{place} holds {what}; only text is read: {_ASIDE}")
        texts.append(require_text(part.get("text"), place))
    return "".join(texts)


def _system(prompt: Any, place: str) -> Conversation:
    if prompt in (None, "", [], {}):
        return []
    return [Message("system", require_text(prompt, place))]


def _require_turn(role: str, before: Sequence[Message], place: str) -> None:
    """Raise unless a message of this role may follow: the system prompt first, then question and answer."""
    last = before[-1].role if before else None
    wanted = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
    if role in wanted[last]:
        return
    if last is None or last == "system":
        told = f"is the {'first' if last is None else 'first after the system prompt'}, and an answer"
        if role == "system":
            told = "is a second system prompt"
    elif role == "system":
        told = "is a system prompt, which must be the first"
    else:
        told = f"has the role {role}, like the one before; user and assistant must alternate"
    raise InputError(f"{place} {told}: mend or {_ASIDE}")


def _renamed(record: Mapping[str, Any], place: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The record with the usual names for what `fields` names."""
    given = {name: path for name, path in fields.items() if name in _READ}
    used = {path.partition(".")[0] for path in given.values()}
    renamed = {key: value for key, value in record.items() if key not in used and key not in given}
    for name, path in given.items():
        value: Any = record
        found = path in record
        if found:
            value = record[path]
        else:
            for key in path.split("."):
                found = isinstance(value, dict) and key in value
                if not found:
                    break
                value = value[key]
        if not found and name in ("instruction", "output", "messages"):
            raise InputError(
                f"{place}: has no {path!r}, which `map` gives for {name}; it has "
                f"{', '.join(map(repr, record))}"
            )
        if found:
            renamed[name] = value
    return renamed
