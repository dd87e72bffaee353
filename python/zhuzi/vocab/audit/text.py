"""An audit as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zhuzi._show import count
from zhuzi.corpus.characters import visible
from zhuzi.vocab.audit.figures import rows

if TYPE_CHECKING:
    from zhuzi.vocab.audit.result import AuditedVocab, VocabAudit

_MARKS = {"wrong": "✗", "warning": "!", "unchecked": "?"}
_SOURCES = 30


def audit_text(audit: VocabAudit) -> str:
    """A table of the figures, the sources, then every vocabulary with what is wrong."""
    lines = []
    if audit.corpus is not None:
        corpus = audit.corpus
        lines.append(
            f"corpus: {count(corpus.documents, 'document')}, {count(corpus.bytes, 'byte')}, "
            f"{count(corpus.characters, 'character')}"
        )
        if corpus.sample_bytes:
            lines.append(
                f"engines: {_of_all(corpus.sample_bytes, corpus.bytes)} in "
                f"{count(corpus.sample_documents, 'document')}"
                + (f" (sampled, seed {corpus.seed})" if corpus.sample_bytes < corpus.bytes else "")
            )
        lines += [*corpus.notes, ""]
    figures = [(row.english, *row.cells) for row in rows(audit)]
    lines += _table([("", *(vocab.name for vocab in audit.vocabularies)), *figures])
    if audit.corpus is not None:
        lines += ["", "characters per token, by source", *_sources(audit)]
    for vocab in audit.vocabularies:
        lines += ["", *_findings(vocab)]
    return "\n".join(lines)


def _of_all(part: int, whole: int) -> str:
    return f"all {whole:,} bytes" if part >= whole else f"{part:,} of {whole:,} bytes"


def _table(table: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _sources(audit: VocabAudit) -> list[str]:
    columns = [vocab.usage.sources for vocab in audit.vocabularies if vocab.usage is not None]
    of_base = columns[0][0].base_tokens is not None
    head = ("", "documents", "bytes", *(["base"] if of_base else []), *(v.name for v in audit.vocabularies))
    table: list[tuple[str, ...]] = [head]
    by_size = sorted(range(len(columns[0])), key=lambda place: -columns[0][place].bytes)
    for place in by_size[:_SOURCES]:
        first = columns[0][place]
        base = [f"{first.characters / max(first.base_tokens or 0, 1):.3f}"] if of_base else []
        own = [f"{s[place].characters / max(s[place].tokens, 1):.3f}" for s in columns]
        table.append((first.path, f"{first.documents:,}", f"{first.bytes:,}", *base, *own))
    shown = _table(table)
    if len(by_size) > _SOURCES:
        shown.append(f"and {count(len(by_size) - _SOURCES, 'smaller file')}")
    return shown


def _findings(vocab: AuditedVocab) -> Iterator[str]:
    if not vocab.safe:
        verdict = "not safe to train on"
    elif vocab.of_kind("unchecked"):
        verdict = "nothing wrong, as far as was looked"
    else:
        verdict = "safe to train on"
    yield f"{vocab.name}: {verdict}"
    for finding in vocab.findings:
        yield f"  {_MARKS[finding.kind]} {finding.english}"
        yield from _places(vocab, finding.code)


def _places(vocab: AuditedVocab, code: str) -> Iterator[str]:
    """The first place that a finding is about."""
    if code == "drift" and vocab.drift is not None and vocab.drift.changed:
        example = vocab.drift.changed[0]
        yield f"      {visible_line(example.text)}"
        yield f"      base: {' '.join(example.base[:20])}"
        yield f"      here: {' '.join(example.pieces[:20])}"
    if code.startswith("parity-") and vocab.parity is not None:
        for engine in vocab.parity.engines:
            if code == f"parity-{engine.engine}" and engine.first is not None:
                first = engine.first
                yield (
                    f"      first: document {first.document:,} of the sample, character {first.character:,}: "
                    f"{visible_line(first.context)}"
                )
                yield f"      sentencepiece: {' '.join(first.ours)}"
                yield f"      {engine.engine}: {' '.join(first.theirs)}"


def visible_line(text: str) -> str:
    """A line of at most 60 characters, its control characters as code points."""
    shown = "".join(letter if letter == " " else visible(letter) for letter in text[:60])
    return shown + (" ..." if len(text) > 60 else "")
