"""Alpaca records: `instruction`, `input` and `output` as texts. Others are errors, never dropped silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhuzi.errors import InputError

KEYS = ("instruction", "input", "output")

_WANTED = "want an object with instruction, input and output"

# Other formats of instruction data, by the keys that show them, and how to convert them to Alpaca's.
_SHAPES = [
    (("conversations",), "a ShareGPT conversation", "write each question and its answer as a record"),
    (("messages",), "a chat", "write each question and its answer as a record"),
    (("kind", "input", "target"), "firefly's shape", "rename input to instruction, and target to output"),
    (("prompt", "response"), "a prompt and its response", "rename them to instruction and output"),
    (("prompt", "completion"), "a prompt and its completion", "rename them to instruction and output"),
    (("question", "answer"), "a question and its answer", "rename them to instruction and output"),
    (("query", "response"), "a query and its response", "rename them to instruction and output"),
    (("text",), "plain text", "give it to `zhuzi corpus encode` and `zhuzi pretrain`"),
]


def check(record: Any, place: str) -> dict[str, Any]:
    """The record, if it is an Alpaca record that tuning can use as it is.

    Raises:
        InputError: it is not; the message names `place`, what the record looks like and what to do.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: {_kind(record)}; {_WANTED}")
    for key in ("instruction", "output"):
        if key not in record:
            raise InputError(f"{place}: {_other_shape(record) or f'has no {key!r}; {_WANTED}'}")
    for key in KEYS:
        text = record.get(key)
        if text is None and key == "input":  # null in some published records
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: {key!r} is not a text but {_kind(text)}; write it as one string")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a UTF-16 pair, as \ud83d
            raise InputError(
                f"{place}: {key!r} holds a lone surrogate at character {error.start}; take it out"
            ) from None
    _require_single_turn(record, place)
    return record


def unread_keys(record: Mapping[str, Any]) -> list[str]:
    """Keys of a record that have a value but are not read by tuning."""
    return [key for key, value in record.items() if key not in KEYS and value not in (None, "", [], {})]


def _require_single_turn(record: Mapping[str, Any], place: str) -> None:
    """Refuse what has no place in the published prompt, which has one question and a fixed system prompt."""
    for key, what in (("history", "earlier turns"), ("system", "a system prompt")):
        if record.get(key) not in (None, "", [], {}):
            raise InputError(
                f"{place}: {key!r} holds {what}, for which the published prompt has no place; write it into "
                f"'instruction', or take {key!r} out"
            )


def _other_shape(record: Mapping[str, Any]) -> str | None:
    for keys, what, fix in _SHAPES:
        if all(key in record for key in keys):
            return f"looks like {what} ({', '.join(keys)}); tuning reads Alpaca's records: {fix}"
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"the records are in a list under {key!r}; write only that list to a file"
    return None


def _kind(value: Any) -> str:
    for kind, name in (
        (bool, "true or false"),
        (str, "a text"),
        (list, "a list"),
        (dict, "an object"),
        (int | float, "a number"),
    ):
        if isinstance(value, kind):
            return name
    return "null"
