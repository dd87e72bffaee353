"""Alpaca records: `instruction`, `input` and `output` as texts. Others are errors, never dropped silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhuzi.errors import InputError

KEYS = ("instruction", "input", "output")

_WANTED = "want an object with instruction, input and output"

# Other formats of instruction data, by the keys that show them.
_CONVERSATIONS = {"conversations": "a ShareGPT conversation", "messages": "a chat"}
# With what Alpaca's fields are called there.
_SHAPES = [
    (("kind", "input", "target"), "firefly's shape", ("input", "target")),
    (("prompt", "response"), "a prompt and its response", ("prompt", "response")),
    (("prompt", "completion"), "a prompt and its completion", ("prompt", "completion")),
    (("question", "answer"), "a question and its answer", ("question", "answer")),
    (("query", "response"), "a query and its response", ("query", "response")),
    (("instruction", "context", "response"), "Dolly's shape", ("instruction", "response", "context")),
    (("instruction", "response"), "an instruction and its response", ("instruction", "response")),
    (("prompt", "chosen"), "a pair of preferences", ("prompt", "chosen")),
]
_TEXT = "plain text (text); give it to `zhuzi corpus encode` and `zhuzi pretrain`"


def check(record: Any, place: str) -> dict[str, Any]:
    """The record, if it is an Alpaca record that tuning can use as it is.

    Raises:
        InputError: it is not; the message names `place`, what the record looks like and what to do.
    """
    for key, what in _CONVERSATIONS.items() if isinstance(record, dict) else ():
        if key in record and not {"instruction", "output"} <= record.keys():
            raise InputError(
                f"{place}: looks like {what} ({key}), and only Alpaca's records are read here: write each "
                "question and its answer as a record"
            )
    check_texts(record, place)
    _require_single_turn(record, place)
    checked: dict[str, Any] = record
    return checked


def check_texts(record: Any, place: str) -> None:
    """Raise as `check` does, but for earlier turns and a system prompt, which may be there."""
    if not isinstance(record, dict):
        raise InputError(f"{place}: {kind_of(record)}; {_WANTED}")
    for key in ("instruction", "output"):
        if key not in record:
            raise InputError(f"{place}: {_other_shape(record) or f'has no {key!r}; {_WANTED}'}")
    for key in KEYS:
        if record.get(key) is None and key == "input":  # null in some published records
            continue
        require_text(record.get(key), f"{place}: {key!r}")


def require_text(text: Any, place: str) -> str:
    """The text, if it is one that can be encoded; `InputError` otherwise."""
    if not isinstance(text, str):
        raise InputError(f"{place} is not a text but {kind_of(text)}; write it as one string")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a UTF-16 pair, as \ud83d
        raise InputError(f"{place} holds a lone surrogate at character {error.start}; take it out") from None
    return text


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
    for keys, what, names in _SHAPES:
        if all(key in record for key in keys):
            fields = ", ".join(
                f"{ours}: {theirs}"
                for ours, theirs in zip(("instruction", "output", "input"), names, strict=False)
                if ours != theirs
            )
            return (
                f"looks like {what} ({', '.join(keys)}); write `map: {{{fields}}}` into the recipe of "
                "tuning, or rename the fields"
            )
    if "text" in record:
        return f"looks like {_TEXT}"
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"the records are in a list under {key!r}; write only that list to a file"
    return None


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
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
