"""Progress: a bar on a terminal, lines in a log, JSON lines for a machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
from tqdm import tqdm

from zhuzi._show import count
from zhuzi.corpus.encode import EncodedCorpus
from zhuzi.corpus.read import left_out_lines

#: Seconds between two lines of a log, and between two JSON lines.
LOG_SECONDS = 10.0
JSON_SECONDS = 2.0


class Reporter:
    """Measures the time and shows nothing; the base of the reporters that do."""

    every = 0.0

    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._first: int | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._started, 1e-9)

    def update(self, done: int, total: int, documents: int = 0, tokens: int = 0) -> None:
        """Report bytes done, bytes in all, and documents and tokens so far where they are counted."""
        if self._first is None:
            # What an earlier run did says nothing about the speed of this one.
            self._first = done
        if time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            self.show(done, total, documents, tokens)

    def speed(self, done: int) -> float:
        """Bytes per second in this run."""
        return (done - (self._first or 0)) / self.seconds

    def left(self, done: int, total: int) -> float | None:
        """Seconds left; None if unknown."""
        speed = self.speed(done)
        return (total - done) / speed if speed > 0 and total else None

    def show(self, done: int, total: int, documents: int, tokens: int) -> None:
        """Show one state."""

    def close(self) -> None:
        """End the display."""


class Bar(Reporter):
    """A bar on the terminal; tqdm adds speed and time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[NoReturn] | None = None

    def show(self, done: int, total: int, documents: int, tokens: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total or None, initial=done, unit="B", unit_scale=True, unit_divisor=1000)
        self._bar.total = total or None  # a second reading makes the total larger
        self._bar.set_postfix_str(_counted(documents, tokens), refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Log(Reporter):
    """One line on stderr every few seconds."""

    every = LOG_SECONDS

    def show(self, done: int, total: int, documents: int, tokens: int) -> None:
        left = self.left(done, total)
        share = f"{100 * done / total:.1f} % of {total / 1e6:,.0f} MB" if total else f"{done / 1e6:,.0f} MB"
        counted = _counted(documents, tokens)
        line = ", ".join(filter(None, [share, counted, f"{self.speed(done) / 1e6:.1f} MB/s"]))
        if left is not None:
            line += f", {_clock(left)} left"
        click.echo(line, err=True)


class JsonLines(Reporter):
    """One JSON object on stdout every few seconds."""

    every = JSON_SECONDS

    def show(self, done: int, total: int, documents: int, tokens: int) -> None:
        left = self.left(done, total)
        state = {
            "event": "progress",
            "bytes": done,
            "total_bytes": total,
            "documents": documents,
            "tokens": tokens,
            "bytes_per_second": round(self.speed(done)),
            "seconds_left": None if left is None else round(left, 1),
        }
        click.echo(json.dumps(state))


def shard_bytes(corpus: Path) -> int:
    """Bytes of tokens in a corpus; 0 if its manifest does not say (whatever reads it says why)."""
    try:
        shards = json.loads((corpus / "manifest.json").read_bytes())["shards"]
        return sum(int(shard["bytes"]) for shard in shards)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


@contextmanager
def reporter(log_format: str = "text") -> Iterator[Reporter]:
    """The reporter for `log_format` (`text` or `json`) and for what stderr is."""
    if log_format == "json":
        chosen: Reporter = JsonLines()
    else:
        chosen = Bar() if sys.stderr.isatty() else Log()
    try:
        yield chosen
    finally:
        chosen.close()


def summary(made: EncodedCorpus, seconds: float, log_format: str) -> str:
    """What was made, as text or as one JSON object."""
    if log_format == "json":
        values = {key: value for key, value in vars(made).items() if key not in {"folder", "missing"}}
        state = {"event": made.outcome, "folder": str(made.folder), **values}
        state |= {"missing_tasks": len(made.missing), "seconds": round(seconds, 3)}
        return json.dumps(state)
    lines = []
    if made.outcome == "already":
        lines.append(f"{made.folder}: finished before by the same command; nothing to do")
    head = (
        f"{made.folder}: {count(made.documents, 'document')}, {count(made.tokens, 'token')} in "
        f"{count(made.shards, 'shard')}"
    )
    if made.outcome == "finished" and made.tokens:
        speed = made.encoded_bytes / 1e6 / seconds
        ratio = made.characters / made.tokens
        head += f" ({speed:.1f} MB/s of text, {ratio:.2f} characters per token)"
    lines.append(head)
    if made.resumed and made.outcome == "finished":
        lines.append(f"done before: {made.resumed:,} of {count(made.tasks, 'task')}")
    if made.outcome == "unsealed":
        lines.append(
            f"missing: {len(made.missing):,} of {count(made.tasks, 'task')}; when all parts are done, the "
            "same command without --task seals the corpus"
        )
    for number, noun, why in [
        (made.empty_documents, "document", "without characters"),
        (made.short_documents, "document", "too short"),
        (made.long_documents, "document", "too long"),
        (made.foreign_documents, "document", "with too little Han"),
        (made.unsampled_documents, "document", "outside the sample"),
        (made.duplicate_documents, "document", "equal to an earlier one"),
        (made.bad_records, "record", "that cannot be read: see rejects.jsonl"),
    ]:
        if number:
            lines.append(f"left out: {count(number, noun)} {why}")
    lines += left_out_lines(made.other_kinds, made.hidden, made.repeated, made.records_of_tools)
    return "\n".join(lines)


def _counted(documents: int, tokens: int) -> str:
    return f"{count(documents, 'document')}, {count(tokens, 'token')}" if documents or tokens else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
