"""The server's routes: OpenAI's, health, metrics."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from zhuzi.errors import InputError
from zhuzi.infer.answer import Delta, answer, require_room
from zhuzi.infer.template import Message
from zhuzi.serve.http import (
    ClientGoneError,
    EventStream,
    error_response,
    read_body,
    unless_gone,
)
from zhuzi.serve.metrics import Metrics
from zhuzi.serve.model import ServedModel
from zhuzi.serve.replies import DONE, Choice, Replies, event
from zhuzi.serve.requests import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    parse_chat,
    parse_completion,
)
from zhuzi.serve.scheduler import BusyError, Job, Scheduler
from zhuzi.serve.settings import ServeSettings

_Endpoint = Callable[[Request], Awaitable[Response]]

# Seconds after which a client that got 429 may ask again.
_RETRY_AFTER = "1"


class Server:
    """One model and what is asked of it."""

    def __init__(self, model: ServedModel, settings: ServeSettings) -> None:
        self.model, self.settings = model, settings
        self.scheduler = Scheduler(settings.parallel, settings.queue)
        self.metrics = Metrics(self.scheduler)
        self._created = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            self._counted("POST", "/v1/chat/completions", self.chat),
            self._counted("POST", "/v1/completions", self.completions),
            self._counted("GET", "/v1/models", self.models),
            self._counted("GET", "/v1/models/{name:path}", self.one_model),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.page_of_metrics, methods=["GET"]),
        ]
        if self.settings.web:
            from zhuzi.serve.page import HEADERS, chat_page

            page = chat_page(self.model, self.settings)

            async def shown(request: Request) -> Response:
                return HTMLResponse(page, headers=HEADERS)

            routes.append(Route("/", shown, methods=["GET"]))
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _failed})

    def _counted(self, method: str, path: str, endpoint: _Endpoint) -> Route:
        """An endpoint of the API: its key is checked, its errors are OpenAI's, its requests are counted."""

        async def run(request: Request) -> Response:
            try:
                self._require_allowed(request)
                response = await endpoint(request)
            except ApiError as error:
                response = error_response(error)
            except ClientGoneError:
                self.metrics.gone.inc()
                response = Response(status_code=499)
            self.metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return Route(path, run, methods=[method])

    def _require_allowed(self, request: Request) -> None:
        if self.settings.local:
            # A page whose own name was made to lead here (DNS rebinding) sends that name.
            host = request.headers.get("host", "").rpartition("@")[2]
            name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name not in ("localhost", "[::1]") and not name.startswith("127."):
                raise ApiError(403, f"this server answers for localhost, not for {name or 'no host'}")
        if self.settings.key is None:
            return
        given = request.headers.get("authorization", "").partition(" ")
        wanted = self.settings.key.encode()
        if given[0].lower() != "bearer" or not hmac.compare_digest(given[2].strip().encode(), wanted):
            raise ApiError(
                401,
                "wrong API key; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def health(self, request: Request) -> Response:
        """Whether the server can answer."""
        return JSONResponse({"status": "ok", "model": self.model.name})

    async def page_of_metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def one_model(self, request: Request) -> Response:
        """The model of a name."""
        self._require_model(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        return {
            "id": self.model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "zhuzi",
            "max_model_len": self.model.engine.positions,
        }

    def _require_model(self, name: str) -> None:
        if name != self.model.name:
            raise ApiError(
                404,
                f"there is no model {name!r} here; there is {self.model.name!r}",
                param="model",
                code="model_not_found",
            )

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`."""
        asked = parse_chat(await read_body(request, self.settings.max_body))
        self._require_model(asked.model)
        messages = [Message("system" if m.role == "developer" else m.role, m.text) for m in asked.messages]
        try:
            prompt = self.model.template.prompt(self.model.tokenizer, messages)
        except (InputError, UnicodeError) as error:
            raise ApiError(400, str(error), param="messages") from None
        return await self._answered(request, asked, [prompt], "chat")

    async def completions(self, request: Request) -> Response:
        """`/v1/completions`."""
        asked = parse_completion(await read_body(request, self.settings.max_body))
        self._require_model(asked.model)
        prompts = [self._ids(prompt) for prompt in asked.prompts]
        if not prompts:
            raise ApiError(400, "prompt: is empty", param="prompt")
        return await self._answered(request, asked, prompts, "text")

    def _ids(self, prompt: str | list[int]) -> list[int]:
        tokenizer = self.model.tokenizer
        if isinstance(prompt, str):
            try:
                return tokenizer.encode(prompt, add_bos=tokenizer.bos_id is not None)
            except UnicodeError as error:
                raise ApiError(400, f"prompt: {error}", param="prompt") from None
        if not all(0 <= id < tokenizer.vocab_size for id in prompt):
            raise ApiError(400, f"prompt: want ids of 0 to {tokenizer.vocab_size - 1}", param="prompt")
        return prompt

    async def _answered(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        prompts: Sequence[list[int]],
        kind: Literal["chat", "text"],
    ) -> Response:
        call = Call(self, asked, prompts, kind)
        call.submit()
        if asked.stream:
            return EventStream(call.events(), call.close)
        try:
            return JSONResponse(await unless_gone(request.receive, call.whole()))
        finally:
            call.close()


class Call:
    """The answers to one request."""

    def __init__(
        self,
        server: Server,
        asked: ChatRequest | CompletionRequest,
        prompts: Sequence[list[int]],
        kind: Literal["chat", "text"],
    ) -> None:
        self._server, self._asked = server, asked
        model, settings = server.model, server.settings
        number = asked.choices * len(prompts)
        if number > settings.max_choices:
            raise ApiError(400, f"n: want at most {settings.max_choices} answers to a request", param="n")
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()
        self._started = time.monotonic()
        self.choices = [Choice() for _ in range(number)]
        self._replies = Replies(kind, model.name, model.tokenizer, sum(map(len, prompts)), asked.top)
        self._prompt_tokens = sum(map(len, prompts))
        self._jobs = []
        for index in range(number):
            prompt = prompts[index // asked.choices]
            try:
                room = require_room(model.engine.positions, len(prompt))
                sampling = asked.sampling(settings.sampling, room)
            except InputError as error:
                raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None
            except ValueError as error:
                raise ApiError(400, str(error)) from None
            if not prompt:
                raise ApiError(400, "prompt: is empty, and the model has no BOS", param="prompt")
            if sampling.seed is not None:  # each answer of a request is another, and repeats
                sampling = replace(sampling, seed=(sampling.seed + index % asked.choices) % (1 << 63))
            make = partial(
                answer,
                model.engine,
                model.tokenizer,
                prompt,
                model.ends,
                sampling,
                stop=asked.stops,
                logprobs=asked.top,
                continues=kind == "text",
            )
            self._jobs.append(Job(make, partial(self._deliver, index)))

    def _deliver(self, index: int, item: Delta | BaseException | None) -> None:
        """From the computing thread to the loop of the server, which may have ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, item))

    def submit(self) -> None:
        """Queue the answers; raises `ApiError` (429) if too many wait."""
        try:
            self._server.scheduler.submit(self._jobs)
        except BusyError:
            raise ApiError(
                429,
                f"{self._server.settings.queue} answers wait already; ask again later",
                kind="rate_limit_error",
                code="server_busy",
                headers={"retry-after": _RETRY_AFTER},
            ) from None
        self._server.metrics.tokens.labels("prompt").inc(self._prompt_tokens)

    def close(self) -> None:
        """Give up what is not done: the client left, or has it all."""
        if self._asked.stream and any(choice.finish is None for choice in self.choices):
            self._server.metrics.gone.inc()
        self._server.scheduler.cancel(self._jobs)

    async def _deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """What comes for each answer, until all are complete."""
        metrics, left, first = self._server.metrics, len(self._jobs), True
        while left:
            index, item = await self._queue.get()
            if first and item is not None:
                metrics.first_token.observe(time.monotonic() - self._started)
                first = False
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise ApiError(500, f"the model failed: {type(item).__name__}", kind="server_error") from item
            else:
                choice = self.choices[index]
                choice.finish = item.finish
                choice.count += item.made
                metrics.tokens.labels("completion").inc(item.made)
                yield index, item
        metrics.seconds.observe(time.monotonic() - self._started)

    async def whole(self) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        async for index, delta in self._deltas():
            self.choices[index].text += delta.text
            self.choices[index].tokens += delta.tokens
        return self._replies.whole(self.choices)

    async def events(self) -> AsyncIterator[bytes]:
        """The events of a request that streams."""
        sent = [0] * len(self.choices)
        try:
            for index in range(len(self.choices)):
                yield self._replies.first(index)
            async for index, delta in self._deltas():
                if delta.text or delta.tokens or delta.finish:
                    yield self._replies.piece(index, delta.text, delta.tokens, sent[index], delta.finish)
                    sent[index] += len(delta.text)
            if self._asked.include_usage:
                yield self._replies.last(self.choices)
            yield DONE
        except ApiError as error:
            yield event(error.body())


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or method that is not there."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    return error_response(ApiError(error.status_code, f"{where}: {error.detail.lower()}"))


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, f"the server failed: {type(error).__name__}", kind="server_error"))
