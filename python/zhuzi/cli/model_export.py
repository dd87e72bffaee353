"""`zhuzi model export`: a model for llama.cpp and Ollama, or for transformers and vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import MODEL, OUT_FOLDER, PATH, say
from zhuzi.cli.progress import reporter

if TYPE_CHECKING:
    from zhuzi.model.export.export import ExportedModel, Format
    from zhuzi.model.export.gguf_model import Type


@click.command("export")
@click.option("--model", type=MODEL, required=True, help="Model folder, or hub id.")
@click.option(
    "--format",
    type=click.Choice(["gguf", "hf"]),
    default="gguf",
    show_default=True,
    help="gguf: a file for llama.cpp and Ollama; hf: a folder for transformers and vLLM.",
)
@click.option(
    "--type",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    default=None,
    help="Type of the weights; q8_0 has 8.5 bits (gguf only). [default: the model's own]",
)
@click.option("--out", type=OUT_FOLDER, required=True, help="File (gguf) or folder (hf) to write.")
@click.option(
    "--chat-template",
    type=PATH,
    help="Jinja file of the chat template. [default: the model's own, else the published prompt]",
)
@click.option("--no-chat-template", is_flag=True, help="Write no chat template.")
@click.option("--name", default=None, help="Name in the card and in GGUF. [default: that of the folder]")
@click.option(
    "--license", default=None, help="Licence for the card and GGUF, as the hub names it: apache-2.0, llama2."
)
@click.option("--base-model", default=None, help="Hub id of the base, for the card.")
@click.option(
    "--figures",
    multiple=True,
    type=PATH,
    help="JSON file of `zhuzi eval bits`, `ceval` or `cmmlu` of this model, for the card; may be repeated.",
)
@click.option(
    "--check",
    multiple=True,
    type=PATH,
    help="Text to compare the ids on as well, anything that `zhuzi corpus encode` reads; may be repeated.",
)
@options.overwrite
def export(
    model: str,
    format: Format,  # noqa: A002  # the option's name
    type: Type | None,  # noqa: A002
    out: Path,
    chat_template: Path | None,
    no_chat_template: bool,
    name: str | None,
    license: str | None,  # noqa: A002
    base_model: str | None,
    figures: tuple[Path, ...],
    check: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Write a model for llama.cpp and Ollama, or for transformers and vLLM.

    Written tensor by tensor, then loaded by the engine it is for: logits and ids must be the model's own.
    Beside F.gguf there is F.gguf.Modelfile for Ollama; the folder has a model card, README.md.
    """
    from zhuzi.model.export.export import export_model

    if no_chat_template and chat_template is not None:
        raise click.UsageError("--chat-template and --no-chat-template exclude each other")
    if format == "hf" and type == "q8_0":
        raise click.UsageError("--type q8_0 is for --format gguf; take f16 or bf16")
    with reporter() as report:
        made = export_model(
            model,
            out,
            format=format,
            type=type,
            chat_template=None if no_chat_template else chat_template or "stored",
            name=name,
            license=license,
            base_model=base_model,
            figures=figures,
            check=check,
            overwrite=overwrite,
            progress=report.update,
        )
    for line in _report(made):
        say("{line}", line=line)


def _report(made: ExportedModel) -> list[str]:
    lines = [f"{made.path}: {made.format} in {made.type}, {made.bytes:,} bytes of weights"]
    lines.append(
        f"{made.engine} computes the same logits: they differ by {made.difference:.1e} of the largest, the "
        f"likeliest id is the same at {made.same_choice:.0%} of 64 places"
    )
    if made.texts:
        lines.append(f"the same ids for {count(made.texts, 'text')} (pieces, random texts, --check)")
    if made.wide:
        lines.append(f"{count(made.wide, 'matrix', 'matrices')} in f16: q8_0 needs rows of a multiple of 32")
    return [*lines, *(f"not checked: {what}" for what in made.unchecked)]
