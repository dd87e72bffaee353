"""`zhuzi vocab audit`: is this vocabulary safe to train on?"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, PATH, say
from zhuzi.errors import ZhuziError

if TYPE_CHECKING:
    from zhuzi.vocab.audit import VocabAudit


@click.command("audit")
@click.argument("models", metavar="MODEL|DIR...", nargs=-1, required=True, type=PATH)
@click.option(
    "--base",
    type=PATH,
    help="The base that they extend: its folder, or its tokenizer.model.",
)
@click.option(
    "--corpus",
    multiple=True,
    type=PATH,
    help="Text to judge them on, anything that `zhuzi corpus encode` reads; may be repeated.",
)
@click.option(
    "--parity-bytes",
    default=8_000_000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Compare the engines on a random sample of at most this many bytes; 0 leaves this out.",
)
@click.option("--seed", default=42, show_default=True, type=int, help="Seed of the sample.")
@options.fields
@options.split
@options.separator
@options.stdin_format
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do at a record that cannot be read.",
)
@options.threads
@click.option("--json", "json_file", type=OUT_FILE, help="Also write all figures as JSON.")
@click.option("--html", "page", type=OUT_FILE, help="Also write one self-contained HTML page with charts.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with code 1 if anything is wrong, and say what was not checked.",
)
@options.overwrite
def audit(
    models: tuple[Path, ...],
    base: Path | None,
    corpus: tuple[Path, ...],
    split: str | None,
    threads: int | None,
    json_file: Path | None,
    page: Path | None,
    strict: bool,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Check whether vocabularies are safe to train on.

    Shows pieces that no text becomes and what they become, scores that tie, digits that are joined, common
    characters without a token. With --corpus also tokens by source, pieces that are never used, and whether
    sentencepiece, tokenizers and llama.cpp give the same ids; with --base what changes for text without Han.
    Several vocabularies are shown side by side.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.record.place import require_free_file
    from zhuzi.vocab import audit_vocab

    if page is not None:
        importlib.import_module("zhuzi.pages")  # a missing extra is named now, not after the work
    read = [*models, *([base] if base is not None else []), *corpus]
    if json_file is not None and page is not None and json_file.resolve() == page.resolve():
        raise click.UsageError(f"--json and --html both name {page}; give each a name of its own")
    for written in filter(None, (json_file, page)):
        require_free_file(written, overwrite=overwrite, inputs=read)
    if not corpus:
        settings["separator"] = None
    settings["split"] = split or ("line" if settings["separator"] is None else "separator")
    with reporter() as progress:
        found = audit_vocab(
            models, base=base, corpus=corpus, num_threads=threads, progress=progress.update, **settings
        )
    # The files first: what is printed may go to a reader that stops, such as head.
    if json_file is not None:
        found.write_json(json_file, overwrite=overwrite)
    if page is not None:
        found.write_html(page, overwrite=overwrite)
    say("{figures}", figures=found.text())
    for written in filter(None, (json_file, page)):
        say("{path}: written", path=written)
    if strict:
        _be_strict(found)


def _be_strict(found: VocabAudit) -> None:
    """Say what was not checked, so that nobody takes it for right, and raise if anything is wrong."""
    for vocab in found.vocabularies:
        for finding in vocab.of_kind("unchecked"):
            say("not checked: {vocab}: {finding}", vocab=vocab.name, finding=finding.english)
    if not found.safe:
        wrong = [f"{v.name} ({v.of_kind('wrong')[0].english})" for v in found.vocabularies if not v.safe]
        raise ZhuziError(f"not safe to train on: {'; '.join(wrong)}")
