"""HTTP as a server that strangers may reach must treat it: bodies within bounds, clients that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from zhuzi.serve.requests import ApiError

#: Seconds for the body of a request to arrive, for one part of it where it is too large, and for a client to
#: take an event.
_BODY_SECONDS, _PART_SECONDS, _SEND_SECONDS = 30.0, 1.0, 60.0

_Result = TypeVar("_Result")


class ClientGoneError(Exception):
    """The client closed its connection."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request.

    Raises:
        ApiError: it is not JSON by its type, has more than `limit` bytes (which are not kept), or does not
            come.
        ClientGoneError: the client left.
    """
    # Browsers send other types to any address without asking it first.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"want content-type application/json, not {kind or 'none'}")
    length = request.headers.get("content-length", "0")
    large = not length.isdecimal() or len(length) > 18 or int(length) > limit
    end = time.monotonic() + _BODY_SECONDS
    held = bytearray()
    while True:
        patience = min(_PART_SECONDS, end - time.monotonic()) if large else end - time.monotonic()
        try:
            message = await asyncio.wait_for(request.receive(), max(patience, 0))
        except TimeoutError:
            if large:
                break
            raise ApiError(408, f"the body did not arrive in {_BODY_SECONDS:g} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        # What is too large is read to its end, if that comes soon, so that the client hears why.
        if not large:
            held += message.get("body", b"")
            large = len(held) > limit
        if large:
            held.clear()
        if not message.get("more_body", False):
            break
    if large:
        raise ApiError(
            413,
            f"the body has more than {limit:,} bytes",
            code="body_too_large",
            headers={"connection": "close"},
        )
    return bytes(held)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`, which is cancelled if the client leaves first; then `ClientGoneError`."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGoneError
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, until the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        """`close` is called when all is sent, or the client has left."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def give(message: dict[str, Any]) -> None:
            # Not wait_for: until Python 3.12 it drops a cancellation that comes as the sending ends, and the
            # answer would grow to its end for a client that has left.
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        async def run() -> None:
            async for body in self._events:
                if body:
                    await give({"type": "http.response.body", "body": body, "more_body": True})
            await give({"type": "http.response.body", "body": b""})

        try:
            await give(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await unless_gone(receive, run())
        except (ClientGoneError, TimeoutError, OSError):
            pass
        finally:
            self._close()


def error_response(error: ApiError) -> JSONResponse:
    """An error as OpenAI sends it."""
    return JSONResponse(error.body(), error.status, error.headers)
