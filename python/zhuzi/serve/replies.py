"""What goes back to clients: OpenAI's objects, whole or in events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zhuzi.infer.answer import Finish, Token
from zhuzi.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


@dataclass
class Choice:
    """One answer as far as it has come."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None
    count: int = 0
    """Tokens that were drawn, those held back included."""


class Replies:
    """The objects of one request."""

    def __init__(
        self,
        kind: Literal["chat", "text"],
        model: str,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        top: int | None,
    ) -> None:
        self._chat = kind == "chat"
        self._tokenizer, self._prompt_tokens, self._top = tokenizer, prompt_tokens, top
        name = "chatcmpl" if self._chat else "cmpl"
        self._head = {"id": f"{name}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        shown = []
        for index, choice in enumerate(choices):
            content: dict[str, Any] = (
                {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
                if self._chat
                else {"text": choice.text}
            )
            shown.append(
                {
                    "index": index,
                    **content,
                    "logprobs": self._logprobs(choice.tokens, 0),
                    "finish_reason": choice.finish,
                }
            )
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": shown, "usage": self.usage(choices)}

    def first(self, index: int) -> bytes:
        """The event before an answer's text; empty for a completion."""
        if not self._chat:
            return b""
        return self._event([{"index": index, "delta": {"role": "assistant", "content": ""}}])

    def piece(
        self, index: int, text: str, tokens: Sequence[Token], offset: int, finish: Finish | None
    ) -> bytes:
        """An event of an answer; `offset` is where `text` begins in it."""
        content: dict[str, Any] = (
            {"delta": {"content": text} if text else {}} if self._chat else {"text": text}
        )
        return self._event(
            [{"index": index, **content, "logprobs": self._logprobs(tokens, offset), "finish_reason": finish}]
        )

    def last(self, choices: Sequence[Choice]) -> bytes:
        """The event with the usage."""
        return self._event([], usage=self.usage(choices))

    def usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        """Tokens of the prompts, and of the answers without what ends them."""
        made = sum(choice.count for choice in choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self._prompt_tokens + made,
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return event({**self._head, "object": kind, "choices": choices, **more})

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        if self._top is None:
            return None
        if self._chat:
            return {"content": [self._entry(token) for token in tokens], "refusal": None}
        texts, offsets = [], []
        for token in tokens:
            texts.append(self._text(token.id))
            offsets.append(offset)
            offset += len(texts[-1])
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._text(id): value for id, value in token.top} for token in tokens],
            "text_offset": offsets,
        }

    def _entry(self, token: Token) -> dict[str, Any]:
        def named(id: int, value: float | None) -> dict[str, Any]:
            return {
                "token": self._text(id),
                "logprob": value,
                "bytes": list(token_bytes(self._tokenizer, id)),
            }

        return {**named(token.id, token.logprob), "top_logprobs": [named(*pair) for pair in token.top]}

    def _text(self, id: int) -> str:
        return token_bytes(self._tokenizer, id).decode("utf-8", "replace")


def token_bytes(tokenizer: Tokenizer, id: int) -> bytes:
    """What a token writes: a piece with spaces, or the byte that it stands for."""
    piece = tokenizer.id_to_token(id)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes.fromhex(piece[3:5])
        except ValueError:
            pass
    return piece.replace("▁", " ").encode("utf-8", "replace")


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
