"""`zhuzi serve`: a model behind OpenAI's API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from zhuzi.cli import options
from zhuzi.cli.options import PATH
from zhuzi.infer.sampling import Sampling
from zhuzi.serve.settings import ServeSettings

_DEFAULT = ServeSettings()


@click.command()
@click.option("--model", type=PATH, required=True, help="Model folder, or GGUF file.")
@click.option("--host", default=_DEFAULT.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_DEFAULT.port,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--name", default=None, help="What requests call the model. [default: its folder's or file's name]"
)
@click.option(
    "--key-env",
    default=None,
    metavar="NAME",
    help="Environment variable with the key that clients must send. [default: no key]",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=_DEFAULT.parallel,
    show_default=True,
    help="Answers that grow at the same time, token by token in turn.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=_DEFAULT.queue,
    show_default=True,
    help="Answers that may wait; further requests get 429.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1024),
    default=_DEFAULT.max_body,
    show_default=True,
    help="Bytes of a request, at most.",
)
@click.option(
    "--stop-seconds",
    type=click.FloatRange(min=0),
    default=_DEFAULT.stop_seconds,
    show_default=True,
    help="How long answers may go on after SIGTERM.",
)
@click.option("--web", is_flag=True, help="A chat page at /, in English and Chinese.")
@options.template
@options.sampling
@options.bits
@options.device
def serve(
    model: Path,
    host: str,
    port: int,
    name: str | None,
    key_env: str | None,
    parallel: int,
    queue: int,
    max_body: int,
    stop_seconds: float,
    web: bool,
    template: str | None,
    bits: Any,
    device: str | None,
    **settings: Any,
) -> None:
    """Answer OpenAI's API with a model: chat, completions, streaming; /health and /metrics.

    Only this machine is answered unless --host says otherwise. The options of drawing apply where a request
    does not say. SIGTERM lets answers end.
    """
    from zhuzi.infer.templates import template_named
    from zhuzi.serve.server import serve_model

    named = None if template is None else template_named(template)
    told = ServeSettings(
        host=host,
        port=port,
        name=name,
        key=None if key_env is None else _key(key_env),
        parallel=parallel,
        queue=queue,
        max_body=max_body,
        stop_seconds=stop_seconds,
        web=web,
        sampling=Sampling(**settings),
    )
    click.echo(f"serve: loading {model}", err=True)

    def started(url: str) -> None:
        click.echo(f"serve: {url}/v1 answers as {name or model.resolve().name}", err=True)
        if web:
            click.echo(f"serve: {url}/ is the chat page", err=True)

    serve_model(model, told, device=device, bits=bits, template=named, started=started)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key.strip():
        raise click.UsageError(f"--key-env: the environment variable {variable} is not set, or empty")
    return key
