"""OpenAI's requests: what is understood, and errors as OpenAI words them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zhuzi.infer.sampling import Sampling

_MOST_STOPS, _LONGEST_STOP = 16, 1000

# What changes nothing here, and is taken from clients that always send it.
_IGNORED = (
    "user",
    "store",
    "metadata",
    "service_tier",
    "parallel_tool_calls",
    "tool_choice",
    "safety_identifier",
)


# What may be of several kinds.
_WANTED = {
    "content": "a text, or a list of parts of the type text",
    "prompt": "a text or its ids, or a list of them",
    "stop": "a text, or a list of them",
}


class ApiError(Exception):
    """An error as OpenAI's API sends it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The object of the error."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat; further keys (`refusal`, `annotations`) of an answer sent back are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Strict):
    """Only text can be asked for."""

    type: Literal["text"]


class _Request(_Strict):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    # What would change an answer is refused unless it asks for nothing.
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)

    @property
    def stops(self) -> list[str]:
        """Strings that end an answer."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, default: Sampling, room: int | None) -> Sampling:
        """How its answers are drawn; `room` bounds the tokens."""
        given = {
            name: getattr(self, name)
            for name in ("temperature", "top_p", "repetition_penalty", "seed")
            if getattr(self, name) is not None
        }
        if self.top_k is not None:
            given["top_k"] = max(self.top_k, 0)  # -1 keeps all in vLLM
        most = self.limit or default.max_new_tokens
        return replace(default, max_new_tokens=most if room is None else min(most, room), **given)

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, at most; None if it does not say."""
        return self.max_tokens

    def require_sane(self) -> None:
        """Raise `ApiError` for what the fields alone do not tell."""
        if len(self.stops) > _MOST_STOPS or any(not 0 < len(s) <= _LONGEST_STOP for s in self.stops):
            raise ApiError(
                400,
                f"stop: want at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters",
                param="stop",
            )
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options goes with stream: true", param="stream_options")


class ChatRequest(_Request):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0)

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, at most; None if it does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """Likeliest ids wanted with each token; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def require_sane(self) -> None:
        """Raise `ApiError` for messages in a wrong order, too."""
        super().require_sane()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
        roles = [message.role for message in self.messages]
        if any(role in ("system", "developer") for role in roles[1:]):
            raise ApiError(400, "messages: only the first may be a system message", param="messages")
        if roles[-1] != "user":
            raise ApiError(400, "messages: the last must be the user's", param="messages")


class CompletionRequest(_Request):
    """`/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def top(self) -> int | None:
        """Likeliest ids wanted with each token; None for no log probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Its prompts, as texts or ids."""
        held = self.prompt
        if isinstance(held, str):
            return [held]
        if held and all(isinstance(entry, int) for entry in held):
            return [held]  # type: ignore[list-item]
        return held  # type: ignore[return-value]


_R = TypeVar("_R", bound=_Request)


def parse_chat(body: bytes) -> ChatRequest:
    """A chat request; raises `ApiError`."""
    return _parsed(ChatRequest, body)


def parse_completion(body: bytes) -> CompletionRequest:
    """A completion request; raises `ApiError`."""
    return _parsed(CompletionRequest, body)


def _parsed(kind: type[_R], body: bytes) -> _R:
    import pydantic_core

    try:
        held = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(held, dict):
        raise ApiError(400, "the body is no JSON object")
    # Null asks for nothing, as at OpenAI, whatever the key.
    asked = {key: value for key, value in held.items() if key not in _IGNORED and value is not None}
    try:
        request = kind.model_validate(asked)
    except ValidationError as error:
        raise _worded(error) from None
    request.require_sane()
    return request


def _worded(error: ValidationError) -> ApiError:
    """The first of pydantic's errors."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = first["loc"]
    for at, part in enumerate(place):
        if part in _WANTED and at + 1 < len(place):  # what follows names one of the kinds it may have
            param = ".".join(map(str, place[: at + 1]))
            return ApiError(400, f"{param}: want {_WANTED[part]}", param=param)
    param = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unrecognized request argument: {param}", param=param)
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param)
    return ApiError(400, f"{param}: {first['msg']}", param=param)
