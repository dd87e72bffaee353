"""Audits: whether a vocabulary is safe to train on, and how it cuts a corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.vocab.audit.audit import PARITY_BYTES, audit_vocab
    from zhuzi.vocab.audit.result import (
        AuditedCorpus,
        AuditedVocab,
        Coverage,
        DeadEntry,
        Digits,
        Drift,
        Example,
        Finding,
        SourceUsage,
        Ties,
        Usage,
        VocabAudit,
    )

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PARITY_BYTES": "zhuzi.vocab.audit.audit",
        "AuditedCorpus": "zhuzi.vocab.audit.result",
        "AuditedVocab": "zhuzi.vocab.audit.result",
        "Coverage": "zhuzi.vocab.audit.result",
        "DeadEntry": "zhuzi.vocab.audit.result",
        "Digits": "zhuzi.vocab.audit.result",
        "Drift": "zhuzi.vocab.audit.result",
        "Example": "zhuzi.vocab.audit.result",
        "Finding": "zhuzi.vocab.audit.result",
        "SourceUsage": "zhuzi.vocab.audit.result",
        "Ties": "zhuzi.vocab.audit.result",
        "Usage": "zhuzi.vocab.audit.result",
        "VocabAudit": "zhuzi.vocab.audit.result",
        "audit_vocab": "zhuzi.vocab.audit.audit",
    },
)

__all__ = [
    "PARITY_BYTES",
    "AuditedCorpus",
    "AuditedVocab",
    "Coverage",
    "DeadEntry",
    "Digits",
    "Drift",
    "Example",
    "Finding",
    "SourceUsage",
    "Ties",
    "Usage",
    "VocabAudit",
    "audit_vocab",
]
