"""What an audit found, as typed records with a stable JSON form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zhuzi._show import Report, count
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike
from zhuzi.vocab.engines import Parity

#: Names the layout of `VocabAudit.as_json`. Fields may be added; none is renamed or changes its meaning.
FORMAT = "zhuzi.vocab-audit/1"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or that one should know."""

    kind: Literal["wrong", "warning", "unchecked"]
    """wrong: do not train on this vocabulary. warning: it costs something. unchecked: nobody looked."""
    code: str
    """A name for programs, such as "dead-new"."""
    english: str
    chinese: str


@dataclass(frozen=True)
class DeadEntry:
    """A piece that no text becomes."""

    id: int
    piece: str
    becomes: tuple[str, ...]
    """The pieces that its own text becomes."""
    becomes_ids: tuple[int, ...]
    origin: Literal["new", "killed", "base", "unknown"]
    """new: not in the base. killed: alive in the base, and dead beside the new pieces. base: dead there
    already. unknown: no base was given."""


@dataclass(frozen=True)
class Ties:
    """Pieces of several characters that share their score with others: the leftmost of them merges first.

    Engines that turn scores into an order of merges cannot express that.
    """

    pieces: int
    new: int | None
    """New pieces among them."""
    scores: int
    """Scores that several pieces have."""
    largest: int
    """Pieces that have the most frequent score."""


@dataclass(frozen=True)
class Digits:
    """Whether each digit is a token of its own, as LLaMA's vocabulary has it."""

    split: bool
    """No piece that text becomes has a digit beside another character."""
    base_splits: bool | None
    joined: int
    """Pieces that have a digit beside another character."""
    new_joined: tuple[str, ...]
    """New ones among them (all of them without a base)."""
    example: str
    example_pieces: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """How many characters are tokens, instead of bytes or unknown."""

    characters: int
    """Different characters."""
    covered: int
    occurrences: int
    """How often they occur; 0 for a list of characters."""
    covered_occurrences: int
    missing: tuple[tuple[str, int], ...]
    """Characters that are not covered with their occurrences, the most frequent first (at most 200)."""

    @property
    def share(self) -> float:
        """Covered occurrences (characters for a list) as a share of all; 1 of nothing."""
        if self.occurrences:
            return self.covered_occurrences / self.occurrences
        return self.covered / self.characters if self.characters else 1.0


@dataclass(frozen=True)
class SourceUsage:
    """The text of one file and its tokens."""

    path: str
    documents: int
    bytes: int
    characters: int
    tokens: int
    base_tokens: int | None


@dataclass(frozen=True)
class Usage:
    """How the corpus uses the vocabulary. No BOS or EOS is counted."""

    tokens: int
    base_tokens: int | None
    byte_tokens: int
    """Byte tokens without newlines: bytes of characters that are no piece."""
    newline_tokens: int
    unknown_tokens: int
    renyi_efficiency: float
    """Renyi entropy (alpha 2.5) of the tokens' frequencies over the logarithm of the vocabulary's size
    (Zouhar et al. 2023, arXiv 2306.16842)."""
    coverage: Coverage
    used: int
    """Pieces that occur."""
    unused: int
    """Pieces that text could become, and that do not occur."""
    used_new: int | None
    unused_new: tuple[str, ...] | None
    frequent_new: tuple[tuple[str, int], ...] | None
    """The most frequent new pieces with their occurrences (at most 40)."""
    sources: tuple[SourceUsage, ...]


@dataclass(frozen=True)
class Example:
    """A line that base and vocabulary encode differently."""

    text: str
    base: tuple[str, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """What changes for text of the old language, line by line, each encoded alone."""

    lines: int
    """Lines with text."""
    longer_lines: int
    """Lines with more tokens than in the base."""
    longer_documents: int
    longest: tuple[Example, ...]
    """Lines that became the longest (at most 5)."""
    documents_without_han: int
    changed_documents: int
    """Documents without Han characters whose ids are not the base's."""
    lines_without_han: int
    changed_lines: int
    ids_without_han: int
    """Ids of the base for these lines."""
    changed_ids: int
    """Those of them between the first and the last difference of a line."""
    changed: tuple[Example, ...]
    """The first changed lines (at most 5)."""


@dataclass(frozen=True)
class AuditedVocab:
    """What was found about one vocabulary. Figures that compare with a base are None without one."""

    name: str
    """Its name in the report."""
    path: str
    fingerprint: str
    vocab_size: int
    """Ids, added tokens included."""
    kinds: Mapping[str, int]
    """Pieces by their kind."""
    added_tokens: tuple[str, ...]
    new_pieces: int | None
    moved_base_pieces: int | None
    """Pieces of the base that do not have their id here."""
    dead: tuple[DeadEntry, ...]
    ties: Ties
    digits: Digits
    common: Coverage
    """Of the 8,105 common characters."""
    usage: Usage | None
    """None without a corpus."""
    drift: Drift | None
    """None without a corpus or a base, or where the base's pieces moved."""
    parity: Parity | None
    """None without a corpus."""
    findings: tuple[Finding, ...]

    def dead_of(self, origin: str) -> tuple[DeadEntry, ...]:
        """The dead pieces of one origin."""
        return tuple(entry for entry in self.dead if entry.origin == origin)

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    @property
    def safe(self) -> bool:
        """Whether nothing is wrong, as far as was looked."""
        return not self.of_kind("wrong")


@dataclass(frozen=True)
class AuditedCorpus:
    """The text of an audit."""

    inputs: tuple[str, ...]
    documents: int
    bytes: int
    """Of text, in UTF-8."""
    characters: int
    sample_bytes: int
    """Bytes of the documents that the engines encoded (see `parity`)."""
    sample_documents: int
    seed: int
    notes: tuple[str, ...]
    """What was left out, one line each."""


@dataclass(frozen=True, repr=False)
class VocabAudit(Report):
    """What `audit_vocab` found."""

    vocabularies: tuple[AuditedVocab, ...]
    base: str | None
    corpus: AuditedCorpus | None

    @property
    def safe(self) -> bool:
        """Whether nothing is wrong with any of the vocabularies, as far as was looked."""
        return all(vocab.safe for vocab in self.vocabularies)

    def as_json(self) -> dict[str, Any]:
        """All of it in JSON's types: the fields of the records, with `format` and `safe`."""
        held = dataclasses.asdict(self)
        for vocab, shown in zip(self.vocabularies, held["vocabularies"], strict=True):
            shown["safe"] = vocab.safe
        found: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, "safe": self.safe, **held}))
        return found

    def text(self) -> str:
        """A table, one column for each vocabulary, and below it what is wrong with each."""
        from zhuzi.vocab.audit.text import audit_text

        return audit_text(self)

    def write_json(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write `as_json` to a file; raises `OutputExistsError` where it may not be written."""
        with new_file(path, kind="vocab audit", overwrite=overwrite, inputs=self._inputs()) as made:
            made.write_text(json.dumps(self.as_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")

    def write_html(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write one self-contained HTML page, in English and Chinese.

        Raises `OutputExistsError` where it may not be written, and `ModuleNotFoundError` without the extra
        `pages`.
        """
        from zhuzi.vocab.audit.page import audit_page

        with new_file(path, kind="page", overwrite=overwrite, inputs=self._inputs()) as made:
            made.write_text(audit_page(self, path), "utf-8")

    def _inputs(self) -> list[str]:
        given = [vocab.path for vocab in self.vocabularies]
        return [*given, *([self.base] if self.base else []), *(self.corpus.inputs if self.corpus else ())]

    def _headline(self) -> str:
        wrong = sum(not vocab.safe for vocab in self.vocabularies)
        named = count(len(self.vocabularies), "vocabulary", "vocabularies")
        return f"{named}, {f'{wrong} not safe' if wrong else 'nothing wrong'}"
