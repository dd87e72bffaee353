"""The corpus of an audit: read once, counted for every vocabulary, and a sample of it for the engines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

from zhuzi.corpus.options import OnError, ReadKeywords
from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError
from zhuzi.record.place import PathLike
from zhuzi.vocab.audit.checks import Vocab
from zhuzi.vocab.audit.counting import Characters, Counter, Sample, Texts, in_batches
from zhuzi.vocab.audit.result import AuditedCorpus, AuditedVocab
from zhuzi.vocab.engines import Parity, compare

Progress = Callable[[int, int], object]


class CorpusRun:
    """Reads a corpus for some vocabularies with the same base."""

    def __init__(
        self,
        vocabs: Sequence[Vocab],
        base: Vocab | None,
        parity_bytes: int,
        seed: int,
        threads: int,
        progress: Progress | None,
    ) -> None:
        self._vocabs = {os.fspath(vocab.path): vocab for vocab in vocabs}
        self._base = base
        self._counters = {path: Counter(vocab, base) for path, vocab in self._vocabs.items()}
        self._parity_bytes = parity_bytes
        self._seed = seed
        self._threads = threads
        self._progress = progress
        self._characters = Characters()
        self._sample = Sample(parity_bytes, seed)
        self._inputs: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._documents = self._bytes = self._read = self._total = 0

    def read(self, inputs: Sequence[PathLike], on_error: OnError, reading: ReadKeywords) -> None:
        """Count every file; raises `InputError` if there is no text."""
        self._inputs = tuple(os.fspath(path) for path in inputs)
        listing = read_texts(inputs, on_error=on_error, **reading)
        self._notes, self._total = listing.notes(), listing.total_bytes
        # One reader for each, so that it is known which file a document is from.
        for path, size in listing.files:
            self._read_file(path, on_error, reading)
            self._read += size
        if not self._bytes:
            raise InputError(f"{', '.join(self._inputs)}: no text; give a corpus that has some")

    def _read_file(self, path: str, on_error: OnError, reading: ReadKeywords) -> None:
        reader = read_texts(path, on_error=on_error, **reading)
        documents = size = characters = 0
        base = None if self._base is None else self._base.tokenizer
        for batch, batch_bytes in in_batches(reader):
            texts = Texts(batch, base, self._threads)
            for counter in self._counters.values():
                counter.add(texts)
            if self._parity_bytes:
                for text in batch:
                    self._sample.add(text)
            characters += self._characters.add(batch)
            documents += len(batch)
            size += batch_bytes
            if self._progress is not None:
                self._progress(self._read + reader.bytes_read, self._total)
        for counter in self._counters.values():
            counter.end_source(path, documents, size, characters)
        self._documents += documents
        self._bytes += size
        self._notes += reader.notes()

    def completed(self, vocab: AuditedVocab) -> AuditedVocab:
        """The vocabulary's audit with what the corpus says."""
        counter = self._counters[vocab.path]
        return dataclasses.replace(
            vocab,
            usage=counter.usage(self._characters),
            drift=None if vocab.moved_base_pieces else counter.drift(),
            parity=self._parity(self._vocabs[vocab.path]) if self._parity_bytes else None,
        )

    def _parity(self, vocab: Vocab) -> Parity:
        texts, size = self._sample.take()
        self._total += size

        def tell(done: int) -> None:
            self._read += done
            if self._progress is not None:
                self._progress(self._read, self._total)

        return compare(vocab.tokenizer, texts, progress=tell)

    def text(self) -> AuditedCorpus:
        """What was read."""
        texts, size = self._sample.take()
        return AuditedCorpus(
            inputs=self._inputs,
            documents=self._documents,
            bytes=self._bytes,
            characters=self._characters.total,
            sample_bytes=size,
            sample_documents=len(texts),
            seed=self._seed,
            notes=tuple(self._notes),
        )
