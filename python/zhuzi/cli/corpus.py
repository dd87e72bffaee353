"""`zhuzi corpus`: text files to training shards, and commands on shards."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import click

from zhuzi._show import count
from zhuzi.cli import options
from zhuzi.cli.options import OUT_FILE, PATH, reason, say
from zhuzi.corpus.options import CorpusOptions

#: Seconds that a run may take to end by itself after a signal. What is committed is durable at any moment.
PATIENCE = 0.8


@click.group(cls=options.Road)
def corpus() -> None:
    """Encode text into training shards; check, merge, export and inspect them."""


def _part(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    part, slash, of = value.partition("/")
    if not (slash and part.isdecimal() and of.isdecimal() and int(part) < int(of)):
        raise click.BadParameter("want I/N, the part and the number of parts, I from 0: --task 0/8")
    return int(part), int(of)


SHARE = click.FloatRange(0, 1)
COUNT = click.IntRange(min=0)


@corpus.command("encode")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--tokenizer", type=PATH, required=True, help="Tokenizer or model folder.")
@options.out
@options.fields
@options.split
@options.separator
@options.stdin_format
@click.option("--bos", is_flag=True, help="Put the begin-of-sequence id before each document.")
@click.option("--no-eos", is_flag=True, help="Put no end-of-sequence id after each document.")
@click.option("--fold-fullwidth", is_flag=True, help="Make full-width letters and digits ASCII.")
@click.option("--clean", is_flag=True, help="Remove control characters and superfluous white space.")
@click.option("--min-chars", type=COUNT, help="Drop documents with fewer code points.")
@click.option("--max-chars", type=COUNT, help="Drop documents with more code points.")
@click.option("--min-han", type=SHARE, help="Drop documents with a smaller share of Han characters.")
@click.option("--sample", type=SHARE, help="Keep this share of the documents.")
@click.option("--dedup", is_flag=True, help="Keep only the first of equal documents.")
@click.option("--limit", type=COUNT, help="Keep at most this many documents.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="A record that cannot be read: stop there, or write it to OUT/rejects.jsonl and continue.",
)
@click.option(
    "--max-record-bytes",
    type=click.IntRange(min=1),
    default=CorpusOptions.max_record_bytes,
    show_default=True,
    help="A longer record counts as one that cannot be read.",
)
@click.option(
    "--shard-bytes",
    type=click.IntRange(min=1),
    default=CorpusOptions.shard_bytes,
    show_default=True,
    help="Unpacked input bytes after which a new shard starts.",
)
@options.threads
@click.option("--task", "part", callback=_part, metavar="I/N", help="Do part I of N only, I from 0.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: the workers of a Ray cluster run the tasks; inputs and OUT must be on a shared file system.",
)
@click.option("--append", is_flag=True, help="Add the inputs that a finished corpus does not have yet.")
@options.overwrite
@click.option("--dry-run", is_flag=True, help="Show the plan and an estimate of its results; write nothing.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: progress and result as JSON lines on stdout.",
)
def encode(
    inputs: tuple[Path, ...],
    tokenizer: Path,
    out: Path,
    field: tuple[str, ...],
    separator: str | None,
    split: str | None,
    threads: int | None,
    no_eos: bool,
    engine: str,
    dry_run: bool,
    log_format: str,
    **settings: Any,
) -> None:
    """Encode INPUTS into Megatron shards (OUT/*.bin + *.idx) and a manifest.

    INPUTS are .jsonl, .ndjson and .json files (one JSON object per line, or one array) and .txt files, each
    also compressed (.gz, .zst, .xz, .bz2); .parquet and .arrow files; folders of them; quoted patterns; or -
    for standard input. The same command resumes a run that stopped. The order and the bytes of the output
    do not depend on threads or interruptions.
    """
    from zhuzi.cli.progress import reporter, summary
    from zhuzi.corpus import EncodedCorpus, encode_corpus, encode_corpus_on_ray, plan_corpus

    settings |= {
        "field": field,
        "separator": separator,
        "split": split or (CorpusOptions.split if separator is None else "separator"),
        "eos": not no_eos,
    }
    names = [option.name for option in fields(CorpusOptions)]
    settings["options"] = CorpusOptions(**{name: settings.pop(name) for name in names})
    if dry_run:
        settings.pop("part")
        say("{plan}", plan=plan_corpus(inputs, tokenizer, out=out, **settings).text(reason))
        return
    run: Callable[..., EncodedCorpus] = encode_corpus
    if engine == "ray":
        if settings.pop("part") is not None:
            raise click.UsageError("--task and --engine ray are two ways to share the work; choose one")
        run = encode_corpus_on_ray
    with _stopping_at_once(), reporter(log_format) as progress:
        made = run(inputs, tokenizer, out, num_threads=threads, progress=progress.update, **settings)
    say("{summary}", summary=summary(made, progress.seconds, log_format))


CORPUS = click.argument("folder", metavar="CORPUS", type=PATH)
TOKENIZER = click.option("--tokenizer", type=PATH, required=True, help="The tokenizer that made the corpus.")


@corpus.command("verify")
@CORPUS
def verify(folder: Path) -> None:
    """Compare every byte of CORPUS with its manifest.

    Finds flipped bits, truncated and missing files, shards of another corpus, ids outside the vocabulary.
    """
    from zhuzi.cli.progress import reporter, shard_bytes
    from zhuzi.corpus import verify_corpus
    from zhuzi.errors import InputError

    total = shard_bytes(folder)
    try:
        with reporter() as progress:
            verify_corpus(folder, progress=lambda done: progress.update(done, total))
    except InputError as error:
        lines = str(error).splitlines()
        for line in lines:
            click.echo(line, err=True)
        raise InputError(f"{folder}: {count(len(lines), 'thing')} not as it should be") from None
    say("{folder}: every byte is as the manifest says", folder=folder)


@corpus.command("merge")
@CORPUS
@click.option("--out", type=OUT_FILE, required=True, help="Prefix to write: PREFIX.bin and PREFIX.idx.")
@options.overwrite
def merge(folder: Path, out: Path, overwrite: bool) -> None:
    """Merge the shards of CORPUS into one pair of Megatron files."""
    from zhuzi.cli.progress import reporter, shard_bytes
    from zhuzi.corpus import merge_shards

    total = shard_bytes(folder)
    with reporter() as progress:
        update = progress.update
        made = merge_shards(folder, out, overwrite=overwrite, progress=lambda done: update(done, total))
    say(
        "{out}.bin, .idx: {documents}, {tokens}",
        out=out,
        documents=count(made.documents, "document"),
        tokens=count(made.tokens, "token"),
    )


@corpus.command("export")
@CORPUS
@options.out
@click.option(
    "--to",
    "kind",
    type=click.Choice(["datasets", "datatrove"]),
    default="datasets",
    show_default=True,
    help="datasets: opens with load_from_disk. datatrove: .ds and .ds.index files.",
)
@click.option(
    "--block",
    type=click.IntRange(min=1),
    help="Tokens per row, with all documents concatenated. [default: one document per row]",
)
@options.overwrite
def export(folder: Path, out: Path, kind: str, block: int | None, overwrite: bool) -> None:
    """Write CORPUS in the format of another tool."""
    from zhuzi.corpus import export_dataset, export_datatrove

    if kind == "datatrove":
        if block is not None:
            raise click.UsageError("--block needs --to datasets: datatrove cuts blocks itself")
        made = export_datatrove(folder, out, overwrite=overwrite)
    else:
        made = export_dataset(folder, out, block=block, overwrite=overwrite)
    say("{out}: {rows}, {tokens}", out=out, rows=count(made.rows, "row"), tokens=count(made.tokens, "token"))
    if made.left_over:
        say("left out (incomplete last block): {tokens}", tokens=count(made.left_over, "token"))


@corpus.command("stats")
@CORPUS
@TOKENIZER
@click.option(
    "--base", type=options.MODEL, help="The base vocabulary: its size, tokenizer folder or model file."
)
@click.option("--html", "page", type=OUT_FILE, help="Also write one self-contained HTML file with charts.")
@options.overwrite
def stats(folder: Path, tokenizer: Path, base: str | None, page: Path | None, overwrite: bool) -> None:
    """Show what CORPUS consists of: lengths, pieces, sources.

    Names the characters without a piece, and the documents with the fewest characters per token. With --base
    it also shows how the new pieces are used, and why some never are: their text is not in the corpus, or
    other pieces are merged there first; if it is a folder or model file, also how many tokens they save.
    """
    from zhuzi.cli.progress import reporter
    from zhuzi.corpus import corpus_stats
    from zhuzi.record.place import require_free_file

    if page is not None:
        import zhuzi.pages  # noqa: F401  # a missing extra is named now, not after the work

        read = [folder, tokenizer] if base is None or base.isdecimal() else [folder, tokenizer, Path(base)]
        require_free_file(page, overwrite=overwrite, inputs=read)
    known = int(base) if base is not None and base.isdecimal() else base
    with reporter() as progress:
        counted = corpus_stats(folder, tokenizer, base=known, progress=progress.update)
    say("{figures}", figures=counted.text())
    if page is not None:
        counted.write_html(page, overwrite=overwrite)
        say("{page}: written", page=page)


@corpus.command("show")
@CORPUS
@click.argument("number", type=click.IntRange(min=0))
@TOKENIZER
@click.option("--ids", is_flag=True, help="Also show the ids.")
def show(folder: Path, number: int, tokenizer: Path, ids: bool) -> None:
    """Decode document NUMBER of CORPUS, counted from 0, and say where it came from."""
    from zhuzi.corpus import locate_document, show_document
    from zhuzi.errors import InputError, ZhuziError

    try:
        document = show_document(folder, tokenizer, number)
    except IndexError as error:
        raise InputError(f"{folder}: there is no {error}") from None
    try:
        origin = locate_document(folder, number)
        place = (
            f"row {origin.offset:,}"
            if origin.line is None
            else f"line {origin.line:,}, byte {origin.offset:,}"
        )
    except (OSError, ZhuziError) as error:
        span = f"{document.start:,} to {document.end:,}"
        place = f"number {document.place:,} kept of {span} (no closer: {reason(error)})"
    click.echo(
        f"document {number:,} of {document.shard}, {count(len(document.ids), 'token')}; "
        f"from {document.source}, {place}",
        err=True,
    )
    if ids:
        click.echo(" ".join(map(str, document.ids)))
    click.echo(document.text)


@contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Make SIGINT and SIGTERM end the run within a second.

    The run ends at its next check for signals; if it is held up (a slow disk, a very long document, the
    planning of a million files), the process exits without it. Nothing is lost: what is committed is durable,
    and the next run removes the rest. `set_wakeup_fd` writes to the pipe at once, whatever the main thread
    does; a handler in Python would wait for the main thread.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if callable(handler):  # the command line's own, which says which signal it was
            handler(number, frame)
        raise KeyboardInterrupt

    def watch() -> None:
        number = os.read(received, 1)
        if number and not ended.wait(PATIENCE):
            os.write(2, b"zhuzi: interrupted\n")
            os._exit(128 + number[0])

    ended = threading.Event()
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    old = signal.set_wakeup_fd(sent)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(old)
        os.close(sent)
        watcher.join()
        os.close(received)
        for number, handler in before.items():
            signal.signal(number, handler)
