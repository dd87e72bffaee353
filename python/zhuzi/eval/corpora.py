"""Bits per byte of several models on several corpora: what a training gained, and what it forgot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from zhuzi._process import is_main, rank
from zhuzi._show import Report, count
from zhuzi.corpus.options import ReadKeywords
from zhuzi.corpus.read import TextReader, read_texts
from zhuzi.errors import InputError
from zhuzi.eval.bits import BitsPerByte, bits_per_byte, require_context
from zhuzi.eval.models import ModelToCompare, open_models, scaling
from zhuzi.eval.partial import PartialResults
from zhuzi.model.positions import positions
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike, require_free_file
from zhuzi.record.provenance import stamped

if TYPE_CHECKING:
    from zhuzi.infer.chat import Bits, Chat

CONTEXT = 512
# Documents that are encoded and measured together, by one process.
_CHUNK = 16
# Between two reports of progress.
_SECONDS = 1.0


@dataclass(frozen=True, repr=False)
class BitsComparison(Report):
    """What `compare_bits` measured."""

    models: list[str]
    sources: list[str]
    measured: list[list[BitsPerByte]]
    """For each model the bits of each source."""
    documents: list[int]
    """Of each source."""
    context: int
    stride: int
    fingerprints: dict[str, str]
    quantised: int | None = None
    """Bits to which the models were quantised as they were loaded, if they were."""

    def _headline(self) -> str:
        return "; ".join(
            f"{model}: " + ", ".join(f"{s} {b.per_byte:.4f}" for s, b in zip(self.sources, bits, strict=True))
            for model, bits in zip(self.models, self.measured, strict=True)
        )

    def _rows(self) -> Iterable[tuple[str, object]]:
        return [
            (f"{model}, {source}", bits)
            for model, row in zip(self.models, self.measured, strict=True)
            for source, bits in zip(self.sources, row, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All that was found, as JSON has it."""
        entries = [
            {
                "model": model,
                "fingerprint": self.fingerprints[model],
                "source": source,
                "documents": documents,
                **asdict(bits),
                "bits_per_byte": bits.per_byte,
                "bits_per_character": bits.per_character,
            }
            for model, row in zip(self.models, self.measured, strict=True)
            for source, documents, bits in zip(self.sources, self.documents, row, strict=True)
        ]
        facts: dict[str, Any] = {"context": self.context, "stride": self.stride}
        if self.quantised is not None:
            facts["quantised"] = self.quantised
        return stamped("bits", {**facts, "measured": entries})

    def write_json(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write `to_json`; raises `OutputExistsError` as every output does."""
        with new_file(path, kind="bits", overwrite=overwrite) as made:
            write_json(made, self.to_json())

    def write_html(
        self, path: PathLike, *, command: str | Sequence[str] | None = None, overwrite: bool = False
    ) -> None:
        """Write one self-contained page, in English and Chinese.

        Raises `OutputExistsError` as every output does, `ModuleNotFoundError` without the extra `pages`.
        """
        from zhuzi.pages import render

        page = render(
            "eval/bits.html.j2",
            title=("Bits per byte", "每字节比特数"),
            lead=(
                f"{count(len(self.models), 'model')}, {count(len(self.sources), 'source')}; "
                "smaller is better",
                f"{len(self.models):,} 个模型，{len(self.sources):,} 份文本；越小越好",
            ),
            command=command,
            fingerprints=self.fingerprints,
            packages=["torch", "transformers"],
            next_commands=[
                (
                    ("See what the models answer", "看看各模型的回答"),
                    "zhuzi eval compare --model MODEL --model OTHER --prompts my.json --html answers.html",
                ),
                (
                    ("Let them answer questions of exams", "让它们做考试题"),
                    "zhuzi eval ceval --model MODEL --data CEVAL --json ceval.json",
                ),
            ],
            comparison=self,
            bars=[
                (model, [bits.per_byte for bits in row])
                for model, row in zip(self.models, self.measured, strict=True)
            ],
            rows=[
                (model, source, f"{b.per_byte:.4f}", f"{b.per_character:.4f}", b.tokens, b.bytes)
                for model, row in zip(self.models, self.measured, strict=True)
                for source, b in zip(self.sources, row, strict=True)
            ],
        )
        with new_file(path, kind="page", overwrite=overwrite) as made:
            made.write_text(page, "utf-8")


def compare_bits(
    models: Sequence[PathLike],
    corpora: Sequence[PathLike],
    *,
    base: PathLike | None = None,
    context: int = CONTEXT,
    stride: int | None = None,
    batch: int = 8,
    max_documents: int | None = None,
    device: str | None = None,
    bits: Bits | None = None,
    out: PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **keywords: Unpack[ReadKeywords],
) -> BitsComparison:
    """Measure models on texts: bits per byte and per character of each, by source.

    Windows and strides are those of `bits_per_byte`. Under torchrun the documents are divided among the
    processes; the result is the same.

    Args:
        models: model folders, or adapters (on `base`, or the base that their records name).
        corpora: files or folders as for `encode_corpus`; each is one source of its own.
        context: tokens that a model sees at once, at most; a model of fewer positions is refused.
        max_documents: the first so many documents of each source.
        bits: 8 or 4 quantises the models as they are loaded, as in `Chat.load`.
        out: a JSON file to write. What was measured is kept beside it until then: the same call resumes.
        keywords: how texts are read, as for `read_texts`.

    Raises:
        InputError: a source without text, a folder without a model.
        MismatchError, OutputExistsError: as `evaluate_exam`.
    """
    if out is not None:
        require_free_file(out, overwrite=overwrite, inputs=[*models, *corpora])
    opened = open_models(models, base)
    for model in opened:
        require_context(positions(model.folder.config), context, stride)
    sources = dict(zip(_names(corpora), corpora, strict=True))
    fingerprints = {model.name: model.fingerprint for model in opened}
    facts = _facts(opened, sources, [context, stride, max_documents], bits, keywords)
    with _processes() as together:
        partial = PartialResults(out if is_main() else None, facts)
        sums: dict[str, list[_Sums]] = {}
        for model in opened:
            chat: Chat | None = None
            for name, corpus in sources.items():
                key = f"{model.name}, {name}"
                found = _Sums(**together.of_main(partial.get(key) or {}))
                if not found.whole:
                    chat = chat or model.load(device, bits)
                    reader = read_texts(corpus, **keywords)
                    windows = _Windows(chat, context, stride, batch)

                    def told(sums: _Sums, key: str = key, reader: TextReader = reader) -> None:
                        progress(key, reader.bytes_read, reader.total_bytes)
                        if together.processes == 1:
                            partial.put(key, asdict(sums))

                    found = _measure(islice(reader, max_documents), windows, found, together, told)
                    if not found.documents:
                        raise InputError(f"{os.fspath(corpus)}: holds no text to measure")
                    partial.put(key, asdict(found))
                sums.setdefault(model.name, []).append(found)
    result = BitsComparison(
        models=list(sums),
        sources=list(sources),
        measured=[[s.bits_per_byte() for s in row] for row in sums.values()],
        documents=[s.documents for s in next(iter(sums.values()))],
        context=context,
        stride=stride or context - 1,
        fingerprints=fingerprints,
        quantised=bits,
    )
    if out is not None and is_main():
        result.write_json(out, overwrite=overwrite)
    partial.remove()
    return result


def _facts(
    opened: Sequence[ModelToCompare],
    sources: Mapping[str, PathLike],
    options: Sequence[object],
    bits: int | None,
    keywords: ReadKeywords,
) -> dict[str, Any]:
    """What decides the result of a measurement."""
    return {
        **scaling(opened),
        **({} if bits is None else {"quantised": bits}),
        "models": {model.name: model.fingerprint for model in opened},
        "files": {name: _stamps(read_texts(corpus, **keywords)) for name, corpus in sources.items()},
        "options": [*options, {key: str(value) for key, value in keywords.items()}],
    }


@dataclass(frozen=True)
class _Sums:
    """What was measured of a source so far."""

    bits: float = 0.0
    tokens: int = 0
    characters: int = 0
    bytes: int = 0
    documents: int = 0
    whole: bool = False

    def __add__(self, more: _Sums) -> _Sums:
        mine, theirs = asdict(self), asdict(more)
        return _Sums(**{key: mine[key] + theirs[key] for key in mine if key != "whole"})

    def bits_per_byte(self) -> BitsPerByte:
        """As the result of one measurement."""
        return BitsPerByte(self.bits, self.tokens, self.characters, self.bytes)


@dataclass(frozen=True)
class _Windows:
    """A model, and how texts are cut for it."""

    chat: Chat
    context: int
    stride: int | None
    batch: int

    def measure(self, texts: list[str]) -> _Sums:
        """The sums of some documents."""
        found = bits_per_byte(
            self.chat.model,
            self.chat.tokenizer,
            texts,
            context=self.context,
            stride=self.stride,
            batch=self.batch,
        )
        return _Sums(found.bits, found.tokens, found.characters, found.bytes, len(texts))


def _measure(
    texts: Iterator[str], windows: _Windows, before: _Sums, together: _Together, told: Callable[[_Sums], None]
) -> _Sums:
    """The sums of a source: those of the documents that were measured `before`, and of the rest."""
    for _ in islice(texts, before.documents):
        pass
    mine, at, saved = before, 0, time.monotonic()
    while chunk := list(islice(texts, _CHUNK)):
        if at % together.processes == together.process:
            mine += windows.measure(chunk)
        at += 1
        if time.monotonic() - saved >= _SECONDS:
            told(mine)
            saved = time.monotonic()
    return replace(together.sum(mine), whole=True)


@dataclass(frozen=True)
class _Together:
    """The processes that share a measurement."""

    processes: int
    process: int

    def of_main(self, value: dict[str, Any]) -> dict[str, Any]:
        """The first process's value, in all."""
        if self.processes == 1:
            return value
        import torch.distributed

        held = [value]
        torch.distributed.broadcast_object_list(held)
        # Documents of a part belong to one process: only what is whole is shared.
        return held[0] if held[0].get("whole") else {}

    def sum(self, sums: _Sums) -> _Sums:
        """The sum over the processes."""
        if self.processes == 1:
            return sums
        import torch.distributed

        held: list[_Sums] = [sums] * self.processes
        torch.distributed.all_gather_object(held, sums)
        return sum(held[1:], start=held[0])


@contextmanager
def _processes() -> Iterator[_Together]:
    """The processes of torchrun, or this one alone."""
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number == 1:
        yield _Together(1, 0)
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    try:
        yield _Together(number, rank())
        # A process that ends while gloo's threads still release tensors of the last exchange is aborted.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def _stamps(reader: TextReader) -> list[list[Any]]:
    """The files of a source, with size and time."""
    return [[path, size, _changed(path)] for path, size in reader.files]


def _changed(path: str) -> int | None:
    return Path(path).stat().st_mtime_ns if Path(path).is_file() else None


def _names(corpora: Sequence[PathLike]) -> list[str]:
    """A name for each source: that of its file, or its path where two would have the same."""
    paths = [Path(corpus) for corpus in corpora]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path}: given twice; name each corpus once")
    names = [path.name.split(".")[0] or str(path) for path in paths]
    return [str(p) if names.count(n) > 1 else n for n, p in zip(names, paths, strict=True)]
