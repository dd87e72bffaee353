"""Training a donor vocabulary with SentencePiece, on a sample of text in bounded memory."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

from zhuzi._paths import one_or_more
from zhuzi._process import available_cores
from zhuzi._show import Report, count
from zhuzi.corpus.read import TextReader, read_texts
from zhuzi.errors import InputError, VocabSizeError, ZhuziError, naming
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike, require_free_file
from zhuzi.vocab import trainer_process
from zhuzi.vocab.progress import Clock, TrainingProgress, trained_share
from zhuzi.vocab.sample import LINE_BYTES, SAMPLE_BYTES, SAMPLE_RANGE, Sample

#: Number of pieces of the published Chinese donor (arXiv 2304.08177).
PAPER_VOCAB_SIZE = 20_000

# Options of SentencePiece's trainer that are always the same.
_FIXED = {
    "normalization_rule_name": "nmt_nfkc",
    "split_digits": True,
    "max_sentence_length": LINE_BYTES,
    "minloglevel": 0,  # the progress is in the log
}

_NO_TEXT = "there is no text to train on, at most white space and control characters; name files with text"

ModelType = Literal["unigram", "bpe"]


@dataclass(frozen=True, repr=False)
class TrainedVocab(Report):
    """What `train_vocab` made, and from what."""

    path: Path
    pieces: int
    documents: int
    """Documents of the input."""
    characters: int
    """Code points of the input's text."""
    bytes: int
    """Bytes of the input's text in UTF-8."""
    used_documents: int
    """Documents trained on, at least in part; all of them unless the text exceeds the sample."""
    used_characters: int
    used_bytes: int
    seed: int
    """The seed of the sample."""
    cut_lines: int
    """Lines of more than 3,000 bytes, which were trained on in parts."""
    reserved_characters: int
    """Characters U+2585, which SentencePiece reserves; they were taken as spaces."""
    empty_documents: int
    bad_records: int
    """Records left out because they could not be read (`on_error="skip"`)."""
    notes: tuple[str, ...] = ()
    """What else was left out or looks wrong, one line each."""

    @property
    def sampled(self) -> bool:
        """Whether the text exceeded the sample."""
        return self.used_bytes < self.bytes

    def _headline(self) -> str:
        return f"{self.path}: {count(self.pieces, 'piece')} from {count(self.used_documents, 'document')}"


def train_vocab(
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    vocab_size: int = PAPER_VOCAB_SIZE,
    model_type: ModelType = "unigram",
    field: str | Sequence[str] = "text",
    split: Literal["line", "blank-line", "separator", "file"] = "line",
    separator: str | None = None,
    stdin_format: Literal["jsonl", "txt"] = "jsonl",
    on_error: Literal["stop", "skip"] = "stop",
    sample_bytes: int = SAMPLE_BYTES,
    seed: int = 42,
    character_coverage: float = 0.9995,
    num_threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainedVocab:
    """Train a donor vocabulary on what `encode_corpus` reads and write it to the file `out`.

    SentencePiece trains, with its normaliser nmt_nfkc as in the published donor and digits split as in
    LLaMA's model. It runs in a process of its own that ends with this one, so that Ctrl-C works.

    The text is read once. Text beyond `sample_bytes` is sampled by `seed`, with every byte equally likely and
    independently of `num_threads` (on which the last digits of SentencePiece's unigram scores do depend).
    Memory depends on the sample alone: on Chinese text of 26 sources, 20,000 pieces took 0.2, 0.5 and 0.9 GB
    for 10, 25 and 50 MB in unigram, and 0.4, 0.7 and 1.2 GB in BPE, which puts the default of 150 MB at 2.7
    and 3.4 GB (extrapolated). Lines of more than 3,000 bytes, on which SentencePiece may fail or which it
    drops, are cut after a sentence or at a space where there is one.

    `progress(state)` is called a few times a second; an exception it raises ends the training.

    Raises:
        InputError: a record that cannot be read, or no text at all.
        VocabSizeError: the text gives no vocabulary of this size.
        OutputExistsError: `out` may not be written.
        ZhuziError: SentencePiece failed; the message says why and what to do.
    """
    out = Path(out)
    inputs = one_or_more(inputs)
    _check(inputs, model_type, vocab_size, character_coverage, sample_bytes)
    require_free_file(out, overwrite=overwrite, inputs=inputs)
    clock = Clock(progress)
    texts = read_texts(
        inputs,
        field=field,
        split=split,
        separator=separator,
        stdin_format=stdin_format,
        on_error=on_error,
    )
    _require_room(out)
    sample = _read(texts, Sample(sample_bytes, seed), clock)
    options = {
        **_FIXED,
        "model_type": model_type,
        "character_coverage": character_coverage,
        "num_threads": num_threads or available_cores(),
    }
    pieces, model = _train(sample, vocab_size, options, clock)
    with new_file(out, kind="vocabulary", overwrite=overwrite, inputs=inputs) as path:
        path.write_bytes(model)
    return TrainedVocab(
        path=out,
        pieces=pieces,
        documents=sample.documents,
        characters=sample.characters,
        bytes=sample.bytes,
        used_documents=sample.used_documents,
        used_characters=sample.used_characters,
        used_bytes=sample.used_bytes,
        seed=seed,
        cut_lines=sample.cut_lines,
        reserved_characters=sample.reserved,
        empty_documents=texts.empty_documents,
        bad_records=texts.bad_records,
        notes=tuple(texts.notes()),
    )


def _read(texts: TextReader, sample: Sample, clock: Clock) -> Sample:
    """Offer all texts to the sample; `InputError` if they have no text."""
    total = texts.total_bytes
    for text in texts:
        sample.add(text)
        if clock.is_due("reading"):
            clock.show(texts.bytes_read, total)
    sample.close()
    if sample.blank:
        bad = f" ({count(texts.bad_records, 'record')} could not be read)" if texts.bad_records else ""
        raise InputError(_NO_TEXT + bad)
    return sample


def _check(
    inputs: Sequence[PathLike],
    model_type: str,
    vocab_size: int,
    character_coverage: float,
    sample_bytes: int,
) -> None:
    """Raise `ValueError` for invalid arguments, before anything is read."""
    if not inputs:
        raise ValueError("no inputs; name files or folders of text, or - for standard input")
    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model_type must be 'unigram' or 'bpe', not {model_type!r}")
    if vocab_size < 4:
        raise ValueError(f"vocab_size is {vocab_size}; SentencePiece's own pieces alone take 3, give more")
    if not 0.98 <= character_coverage <= 1:
        raise naming(ValueError, ("character_coverage", None), f" is {character_coverage}; give 0.98 to 1")
    low, high = SAMPLE_RANGE
    if not low <= sample_bytes <= high:
        raise ValueError(f"sample_bytes is {sample_bytes:,}; give {low:,} to {high:,}")


def _train(sample: Sample, vocab_size: int, options: Mapping[str, object], clock: Clock) -> tuple[int, bytes]:
    """Train on the sample in a process of its own; returns the number of pieces, and the model."""
    request = json.dumps(
        {"path": sys.path, "parent": os.getpid(), "trainer": {**options, "vocab_size": vocab_size}}
    )
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-I", trainer_process.__file__, request],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=log,
        )
        stdin = cast("IO[bytes]", process.stdin)
        try:
            with suppress(BrokenPipeError):  # the process ended early and says why
                _feed(stdin, sample, clock)
            while process.poll() is None:
                if clock.is_due("training"):
                    clock.show(share=trained_share(_log_so_far(log), vocab_size))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(Clock.every)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                stdin.close()
        answer.seek(0)
        if process.returncode == 0:
            made = answer.read()
            return int.from_bytes(made[:4], "little"), made[4:]
        said = answer.read() if process.returncode == trainer_process.FAILED else _last_line(log)
        raise _explain(said.decode("utf-8", "replace"), process.returncode, vocab_size, sample)


def _feed(stdin: IO[bytes], sample: Sample, clock: Clock) -> None:
    for part in sample.take():
        stdin.write(struct.pack("<I", len(part)))
        stdin.write(part)
        if clock.is_due("training"):
            clock.show()
    stdin.write(struct.pack("<I", 0))
    stdin.flush()


def _log_so_far(log: IO[bytes]) -> bytes:
    # pread: the process writes at the file's own position, which it shares with us.
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)


def _last_line(log: IO[bytes]) -> bytes:
    """The last line of a log that is not information about progress."""
    lines = [line for line in _log_so_far(log).strip().splitlines() if not re.match(rb"I\d{4} ", line)]
    return lines[-1] if lines else b""


def _explain(message: str, code: int, wanted: int, sample: Sample) -> ZhuziError:
    """The several lines of SentencePiece's trainer as one, with what to do."""
    message = " ".join(message.split())
    text = f"{count(sample.used_documents, 'document')} of {count(sample.used_characters, 'character')}"
    if code == -signal.SIGKILL:
        return naming(
            ZhuziError,
            f"training on {sample.used_bytes:,} bytes was killed by the system, most likely for lack of "
            "memory; lower ",
            ("sample_bytes", None),
        )
    if too_high := re.search(r"size too high .*<= (\d+)", message):
        limit = int(too_high[1])
        return naming(
            partial(VocabSizeError, limit=limit),
            f"{text} cannot give {wanted:,} pieces; ask for ",
            ("vocab_size", limit),
            " at most, or give more text",
        )
    if too_low := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        limit = int(too_low[1])
        return naming(
            partial(VocabSizeError, limit=limit),
            f"the characters of {text} alone need {limit:,} pieces; ask for a ",
            ("vocab_size", None),
            " of at least that, or lower ",
            ("character_coverage", None),
        )
    return naming(
        ZhuziError,
        f"SentencePiece could not train {wanted:,} pieces on {text} ({message or f'exit code {code}'}); "
        "a smaller ",
        ("vocab_size", None),
        " or more text usually helps",
    )


def _require_room(out: Path) -> None:
    """Raise `OSError` where no file can be made, so that hours are not spent on a model that has no place."""
    place = out.resolve().parent
    while not place.exists():  # it is made when there is something to put into it
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise type(error)(error.errno, error.strerror, os.fspath(out)) from None
