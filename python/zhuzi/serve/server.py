"""A server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zhuzi.serve.settings import ServeSettings

if TYPE_CHECKING:
    from zhuzi.infer.chat import Bits
    from zhuzi.infer.template import Template

_log = logging.getLogger(__name__)

# Connections at a time; those beyond get 503.
_CONNECTIONS = 1024


def serve_model(
    model: str | Path,
    settings: ServeSettings | None = None,
    *,
    device: str | None = None,
    bits: Bits | None = None,
    template: Template | None = None,
    started: Callable[[str], object] = lambda url: None,
) -> None:
    """Answer OpenAI's API with a model folder or a GGUF file, until SIGTERM or Ctrl-C.

    The address is taken and the folder checked before the model is loaded; nothing is answered before it is.
    On SIGTERM no further request is taken, and answers have `stop_seconds` to end; a second signal ends them.

    Args:
        device: of torch; a GPU if there is one by default.
        bits: 8 or 4 quantises the model as it is loaded, as in `Chat.load`.
        template: how conversations become ids; that of the folder by default.
        started: called with the server's URL once it answers.

    Raises:
        InputError, MismatchError: as `Chat.from_dir`.
        OSError: the address cannot be taken.
        ImportError: without the extra `serve`.
    """
    from zhuzi.infer.chat import open_model, unusable_template
    from zhuzi.serve.app import Server
    from zhuzi.serve.model import load_folder

    settings = settings or ServeSettings()
    folder = open_model(model, template=template, system=settings.system)
    unusable = None if template is not None else unusable_template(folder)
    if unusable is not None:
        _log.warning(f"the published prompt is used, as the model's own cannot be: {unusable}")
    with _listening(settings) as listener:
        if not settings.local and settings.key is None:
            _log.warning(f"{settings.host} can be reached from other machines, and no key is asked for")
        served = load_folder(folder, name=settings.name, device=device, bits=bits, template=template)
        server = Server(served, settings)
        try:
            asyncio.run(_serve(server, listener, started))
        finally:
            server.scheduler.close()


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    """A socket at the address; clients wait in its backlog until the model is loaded."""
    kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise OSError(error.errno, f"{error.strerror}; choose another port or host", where) from None
        yield listener


async def _serve(server: object, listener: socket.socket, started: Callable[[str], object]) -> None:
    import uvicorn

    class Quiet(uvicorn.Server):
        """Without uvicorn's handlers of signals, which raise them again when it has stopped."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started(_url(listener))

    settings: ServeSettings = server.settings  # type: ignore[attr-defined]
    config = uvicorn.Config(
        server.app(),  # type: ignore[attr-defined]
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
    )
    running = Quiet(config)

    def stop() -> None:
        running.force_exit = running.should_exit
        running.should_exit = True

    with suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
    await running.serve(sockets=[listener])


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
