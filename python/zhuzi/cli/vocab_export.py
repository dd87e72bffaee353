"""`zhuzi vocab export`: a vocabulary for transformers, vLLM and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import OUT_FOLDER, PATH, say

if TYPE_CHECKING:
    from zhuzi.vocab.export import ExportedVocab, Format


@click.command("export")
@click.option("--tokenizer", type=PATH, required=True, help="Tokenizer folder, or a SentencePiece model.")
@click.option(
    "--format",
    type=click.Choice(["hf", "gguf"]),
    default="hf",
    show_default=True,
    help="hf: a folder for transformers and vLLM; gguf: a file for llama.cpp.",
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder (hf) or file (gguf) to write.")
@click.option(
    "--chat-template", type=PATH, help="Jinja file of the chat template instead of the published prompt."
)
@click.option("--no-chat-template", is_flag=True, help="Write no chat template.")
@click.option(
    "--split-special-tokens",
    is_flag=True,
    help="A </s> in a text stays text in transformers; chat templates then need an option.",
)
@click.option(
    "--check",
    multiple=True,
    type=PATH,
    help="Text to compare the ids on as well, anything that `zhuzi corpus encode` reads; may be repeated.",
)
@options.overwrite
def export(
    tokenizer: Path,
    format: Format,  # noqa: A002  # the option's name
    out: Path,
    chat_template: Path | None,
    no_chat_template: bool,
    split_special_tokens: bool,
    check: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Write a vocabulary for transformers and vLLM, or for llama.cpp, with the same ids.

    What was written is loaded and compared with Zhuzi's ids. A vocabulary whose scores tie (policy paper)
    has no tokenizer.json: its folder is for transformers' SentencePiece backend.
    """
    from zhuzi.vocab.export import export_vocab

    if no_chat_template and chat_template is not None:
        raise click.UsageError("--chat-template and --no-chat-template exclude each other")
    made = export_vocab(
        tokenizer,
        out,
        format=format,
        chat_template=None if no_chat_template else chat_template or "alpaca",
        split_special_tokens=split_special_tokens,
        check=check,
        overwrite=overwrite,
    )
    for line in _report(made):
        say("{line}", line=line)


def _report(made: ExportedVocab) -> list[str]:
    lines = [f"{made.path}: {made.vocab_size:,} ids as {made.format}"]
    if made.dead:
        lines.append(
            f"{count(made.dead, 'piece')} can never be produced, in no engine; vocab audit names them, "
            "vocab merge --repair makes vocabularies without any"
        )
    if made.reason is not None:
        lines.append(
            f"no tokenizer.json can hold this vocabulary: {made.reason}. The folder is for transformers' "
            "SentencePiece backend, with the same ids; engines that need a tokenizer.json refuse it. "
            "vocab merge --policy ordered makes vocabularies for every engine"
        )
    engine = "llama.cpp" if made.format == "gguf" else "transformers"
    if made.checked:
        lines.append(
            f"{engine} gives the same ids for {count(made.checked, 'text')} (pieces, random texts, --check)"
        )
    else:
        lines.append(f"{engine} is not installed: the ids were not compared")
    return lines
