"""An OpenAI-compatible endpoint: one question, one answer, with time-outs, retries and a rate limit.

`POST URL/chat/completions` is spoken by OpenAI, vLLM, llama.cpp, Ollama and most providers. The key comes
from an environment variable. It is sent in the header and stands nowhere else: what a server says is searched
for it before it is shown or kept.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from zhuzi.errors import EndpointError, Part, naming

#: Environment variables that hold the key, if none is named: the first that is set.
KEY_VARIABLES = ("ZHUZI_API_KEY", "OPENAI_API_KEY")

#: Bytes of a response that are read, at most.
MAX_BYTES = 16 << 20

#: Seconds between two tries, at most, and the longest `Retry-After` that is waited for.
_LONGEST_WAIT, _LONGEST_RETRY_AFTER = 60.0, 900.0

#: Tries again when nothing was ever answered: a wrong address should not take minutes to find out.
_FIRST_RETRIES = 2

_log = logging.getLogger(__name__)
_PATH = "/chat/completions"
_HIDDEN = "(key)"

Message = Mapping[str, str]


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how patiently.

    Raises:
        ValueError: an URL that is none or holds a key, or a setting out of range.
    """

    url: str
    """As clients of OpenAI take it: `http://127.0.0.1:8000/v1`, with or without `/chat/completions`."""
    model: str
    """The model's name there."""
    key_env: str | None = None
    """The environment variable that holds the key; by default the first that is set of `KEY_VARIABLES`."""
    timeout: float = 300.0
    """Seconds for one whole answer."""
    retries: int = 8
    """Tries after the first, where trying again may help."""
    backoff: float = 1.0
    """Seconds before the second try; they double from try to try, up to a minute."""
    rate: float | None = None
    """Requests a minute, all threads together; None for no limit."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the request's body, such as `temperature` or `max_tokens`."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(
                f"endpoint: {_without_secrets(self.url)!r} is no URL like http://127.0.0.1:8000/v1"
            )
        secret = [name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)]
        if parts.username or parts.password or secret:
            raise naming(
                ValueError,
                f"endpoint: {_without_secrets(self.url)} holds a key, which would be logged with it; put the "
                "key into an environment variable, and name that with ",
                ("key_env", None),
            )
        if not self.model:
            raise ValueError("model: want the name of a model at the endpoint")
        for name in ("timeout", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: want more than 0, not {value}")
        for name in ("retries", "backoff"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: want 0 or more, not {getattr(self, name)}")
        if taken := sorted({"model", "messages", "stream", "n"} & set(self.settings)):
            raise ValueError(f"settings: {', '.join(taken)} cannot be set; they are part of every request")

    @property
    def address(self) -> str:
        """The whole URL that is posted to."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        if not path.endswith(_PATH):
            path = (path or "/v1") + _PATH
        return parts._replace(path=path, fragment="").geturl()


@dataclass(frozen=True)
class Answer:
    """What a model answered, and what it cost."""

    text: str
    cut: bool
    """Whether it ended at a limit of tokens."""
    prompt_tokens: int
    answer_tokens: int
    estimated: bool
    """Whether the tokens are our estimate, because the endpoint did not count them."""


class RefusedPromptError(Exception):
    """The endpoint refuses this one request (HTTP 400, 413, 422), and would refuse it again."""


class Stopped(Exception):  # noqa: N818  # not an error
    """The work ends; nothing is tried again."""


class Client:
    """Asks an endpoint; may be used by many threads. `retried` counts tries again by their reason."""

    def __init__(self, endpoint: Endpoint, stop: threading.Event | None = None) -> None:
        import httpx2

        self.endpoint = endpoint
        self.retried: Counter[str] = Counter()
        self._stop = stop or threading.Event()
        self._key = _key(endpoint.key_env)
        self._lock = threading.Lock()
        self._answered = False
        # time.monotonic() from which the rate limit, and the server, allow the next request.
        self._next_slot = self._paused_until = 0.0
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        patience = httpx2.Timeout(endpoint.timeout, connect=min(endpoint.timeout, 30.0), pool=None)
        limits = httpx2.Limits(max_connections=None)
        if self.sends_key_in_clear:
            _log.warning("%s: the key is sent without encryption; use https", endpoint.address)
        self._http = httpx2.Client(headers=headers, timeout=patience, limits=limits)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._http.close()

    @property
    def sends_key_in_clear(self) -> bool:
        """Whether the key is sent without encryption to another machine."""
        parts = urlsplit(self.endpoint.url)
        host = parts.hostname or ""
        near = host in {"localhost", "::1"} or host.startswith("127.")
        return bool(self._key) and parts.scheme == "http" and not near

    def ask(self, messages: Sequence[Message]) -> Answer:
        """One answer to `messages`.

        Raises:
            EndpointError: no answer after all tries, or one that no try will change (a wrong key, another
                protocol).
            RefusedPromptError: the endpoint refuses these messages.
            Stopped: the client's stop was set while it waited.
        """
        endpoint = self.endpoint
        body = {**endpoint.settings, "model": endpoint.model, "messages": list(messages), "stream": False}
        sent = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        tries = 0
        while True:
            self._wait_for_slot()
            tries += 1
            try:
                answer = self._try(sent, messages)
            except _Again as again:
                most = endpoint.retries
                if again.is_first_check and not self._answered:
                    most = min(most, _FIRST_RETRIES)
                if tries > most or again.after > _LONGEST_RETRY_AFTER:
                    when = f", and asks for {again.after:,.0f} seconds" if again.after else ""
                    again_tried = f" ({tries} times)" if tries > 1 else ""
                    what = f"{endpoint.address}: {again.reason}{again_tried}{when}; "
                    raise naming(EndpointError, what, *again.remedy) from None
                with self._lock:
                    self.retried[again.kind] += 1
                self._pause(tries, again.after)
            else:
                self._answered = True
                return answer

    def _try(self, sent: bytes, messages: Sequence[Message]) -> Answer:
        """One request; raises `_Again` where another may help."""
        import httpx2

        seconds = f"{self.endpoint.timeout:g} s"
        try:
            status, headers, body = self._post(sent)
        except (httpx2.TimeoutException, TimeoutError):
            longer: tuple[Part, ...] = ("allow more with ", ("timeout", None), ", or ask for less at once")
            raise _Again("time-out", f"no answer within {seconds}", *longer) from None
        except (httpx2.TransportError, httpx2.DecodingError, OSError) as error:
            reason = self._clean(str(error)) or type(error).__name__
            raise _Again(
                "no connection", reason, "is the server running there?", is_first_check=True
            ) from None
        if 200 <= status < 300:
            return self._read(body, messages)
        said = self._said(body)
        where = f"{self.endpoint.address}: HTTP {status}"
        if status in (401, 403):
            names = self.endpoint.key_env or " or ".join(KEY_VARIABLES)
            raise EndpointError(f"{where} ({said}); put a key that is valid there into {names}")
        if status in (404, 405) or 300 <= status < 400:
            place = f", which points to {headers.get('location', '')}" if 300 <= status < 400 else ""
            raise EndpointError(
                f"{where}{self._clean(place)} ({said}); give the URL that OpenAI's clients take, such as "
                "http://127.0.0.1:8000/v1, and the name of a model there"
            )
        if status == 402 or (status == 429 and _NO_MONEY.search(said)):
            raise EndpointError(f"{where} ({said}); top up the account, and run the same command again")
        if status in (408, 409, 425, 429) or status >= 500:
            after = _retry_after(headers.get("retry-after"))
            late = "try later, or see the server's log"
            remedy: tuple[Part, ...] = (
                ("lower ", ("rate", None), ", or try later") if status == 429 else (late,)
            )
            raise _Again(f"HTTP {status}", f"HTTP {status} ({said})", *remedy, after=after)
        raise RefusedPromptError(f"HTTP {status} ({said})")

    def _post(self, sent: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; `TimeoutError` if a body drips in for longer than the time-out."""
        deadline = time.monotonic() + self.endpoint.timeout
        kind = {"Content-Type": "application/json"}
        with self._http.stream("POST", self.endpoint.address, content=sent, headers=kind) as response:
            held = bytearray()
            for chunk in response.iter_bytes():
                held += chunk
                if len(held) > MAX_BYTES:
                    raise self._other_protocol(f"an answer of more than {MAX_BYTES >> 20} MB")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return response.status_code, response.headers, bytes(held)

    def _read(self, body: bytes, messages: Sequence[Message]) -> Answer:
        """The answer in the body of a response."""
        try:
            held = json.loads(body)
            choices = held["choices"]
            choice = choices[0] if choices else {"message": {"content": ""}}
            content = choice["message"].get("content") or ""
            if isinstance(content, list):  # parts, as some providers send
                content = "".join(part.get("text") or "" for part in content)
            if not isinstance(content, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            what = f"an answer that begins {self._said(body)!r}" if body.strip() else "an empty answer"
            raise self._other_protocol(what) from None
        # Half of a UTF-16 pair, as JSON can write it, cannot be kept in UTF-8.
        text = self._without_key(content).encode("utf-8", "replace").decode()
        given, made = _usage(held.get("usage"))
        estimated = given is None or made is None
        if given is None:
            given = sum(estimate_tokens(message["content"]) for message in messages)
        if made is None:
            made = estimate_tokens(content)
        return Answer(text, choice.get("finish_reason") == "length", given, made, estimated)

    def _other_protocol(self, what: str) -> _Again:
        return _Again(
            "another protocol",
            f"{what}, not OpenAI's chat completions",
            "give the URL that OpenAI's clients take, such as http://127.0.0.1:8000/v1",
            is_first_check=True,
        )

    def _said(self, body: bytes) -> str:
        """What a response says, on one short line."""
        text = body[:20_000].decode("utf-8", "replace")
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            held = None
        if isinstance(held, dict):
            error = held.get("error", held)
            if isinstance(error, dict):
                words = [error.get(key) for key in ("code", "type", "message")]
                text = ", ".join(str(word) for word in words if word) or text
            elif isinstance(error, str):
                text = error
        return self._clean(text) or "an empty body"

    def _clean(self, text: str) -> str:
        """Text of a server for a message: without the key, on one line, 200 characters at most."""
        text = "".join(c if c.isprintable() else " " for c in self._without_key(text))
        text = " ".join(text.split())
        return text if len(text) <= 200 else f"{text[:200]}..."

    def _without_key(self, text: str) -> str:
        # Shorter ones are no keys that anybody has to keep, and their letters occur in every text.
        return text.replace(self._key, _HIDDEN) if self._key and len(self._key) >= 8 else text

    def _wait_for_slot(self) -> None:
        """Wait until the rate limit, and a pause that the server asked for, allow the next request."""
        interval = 60 / self.endpoint.rate if self.endpoint.rate else 0.0
        wait = 0.0
        while not self._stop.wait(wait):
            with self._lock:
                now = time.monotonic()
                wait = max(self._next_slot, self._paused_until) - now
                if wait <= 0:
                    self._next_slot = now + interval
                    return
        raise Stopped

    def _pause(self, tries: int, after: float) -> None:
        """Wait before try `tries` + 1; a pause that the server asked for holds for all threads."""
        if after:
            with self._lock:
                self._paused_until = max(self._paused_until, time.monotonic() + after)
        wait = min(self.endpoint.backoff * 2 ** (tries - 1), _LONGEST_WAIT)
        # Threads that failed together should not come back together.
        if self._stop.wait(max(after, wait * random.uniform(0.5, 1.0))):
            raise Stopped


class _Again(Exception):  # noqa: N818  # not raised to callers
    """A try that failed, after which another may succeed."""

    def __init__(
        self, kind: str, reason: str, *remedy: Part, after: float = 0.0, is_first_check: bool = False
    ) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.remedy, self.after = kind, reason, remedy, after
        self.is_first_check = is_first_check


_SECRET = re.compile(r"key|token|secret|sig|password", re.IGNORECASE)
# Not "quota" alone: some providers word a limit per minute so.
_NO_MONEY = re.compile(r"insufficient|arrear|余额|欠费", re.IGNORECASE)


def _without_secrets(url: str) -> str:
    """An URL without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _key(variable: str | None) -> str | None:
    """The key, from the environment; `ValueError` if the variable named is not set, or holds no key."""
    names = [variable] if variable else KEY_VARIABLES
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise ValueError(f"{name}: holds characters that no key has; set it to the key alone")
            return key
    if variable:
        if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):  # the key itself is not repeated here
            wants = (
                "the name of an environment variable is wanted, not a key; export the key, and name it with "
            )
            raise naming(ValueError, wants, ("key_env", None))
        no_key = f"{variable}: not set; export the key in it, or name another variable with "
        raise naming(ValueError, no_key, ("key_env", None))
    return None  # a server on one's own machine wants none


def require_no_key(key_env: str | None, held: Mapping[str, Any]) -> None:
    """Raise `ValueError` if what is `held`, by its name, has the key in it: it would be written."""
    keys = [os.environ.get(name, "").strip() for name in ([key_env] if key_env else KEY_VARIABLES)]
    for name, value in held.items():
        if any(len(key) >= 8 and key in json.dumps(value, ensure_ascii=False) for key in keys):
            raise ValueError(f"{name}: the endpoint's key stands in there, and would be written; remove it")


def _retry_after(value: str | None) -> float:
    """Seconds of a `Retry-After`, which holds seconds or a date; 0 if it holds neither."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _usage(held: object) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer, as far as an endpoint counted them."""
    if not isinstance(held, dict):
        return None, None
    counts = [held.get(name) for name in ("prompt_tokens", "completion_tokens")]
    given, made = (n if type(n) is int and 0 <= n < 1 << 40 else None for n in counts)
    return given, made


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated rather too high: one for each Chinese character, and for 3 ASCII ones."""
    plain = sum(c.isascii() for c in text)
    return len(text) - plain + -(-plain // 3)
