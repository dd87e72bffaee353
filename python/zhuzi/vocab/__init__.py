"""Vocabularies: extend a base, or train a donor and merge it into one; audit the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.vocab.audit import VocabAudit, audit_vocab
    from zhuzi.vocab.dead import DeadPiece, dead_pieces
    from zhuzi.vocab.export import ExportedVocab, export_vocab
    from zhuzi.vocab.extend import ExtendedVocab, extend_vocab
    from zhuzi.vocab.merge import merge_vocab
    from zhuzi.vocab.merge_options import MergeOptions
    from zhuzi.vocab.merged import DonorCounts, LeftOutPiece, MergedVocab, NewPiece
    from zhuzi.vocab.progress import TrainingProgress
    from zhuzi.vocab.sample import SAMPLE_BYTES
    from zhuzi.vocab.train import PAPER_VOCAB_SIZE, TrainedVocab, train_vocab

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PAPER_VOCAB_SIZE": "zhuzi.vocab.train",
        "SAMPLE_BYTES": "zhuzi.vocab.sample",
        "DeadPiece": "zhuzi.vocab.dead",
        "DonorCounts": "zhuzi.vocab.merged",
        "ExportedVocab": "zhuzi.vocab.export",
        "LeftOutPiece": "zhuzi.vocab.merged",
        "MergeOptions": "zhuzi.vocab.merge_options",
        "MergedVocab": "zhuzi.vocab.merged",
        "NewPiece": "zhuzi.vocab.merged",
        "ExtendedVocab": "zhuzi.vocab.extend",
        "TrainedVocab": "zhuzi.vocab.train",
        "TrainingProgress": "zhuzi.vocab.progress",
        "VocabAudit": "zhuzi.vocab.audit",
        "audit_vocab": "zhuzi.vocab.audit",
        "dead_pieces": "zhuzi.vocab.dead",
        "export_vocab": "zhuzi.vocab.export",
        "extend_vocab": "zhuzi.vocab.extend",
        "merge_vocab": "zhuzi.vocab.merge",
        "train_vocab": "zhuzi.vocab.train",
    },
)

__all__ = [
    "PAPER_VOCAB_SIZE",
    "SAMPLE_BYTES",
    "DeadPiece",
    "DonorCounts",
    "ExportedVocab",
    "ExtendedVocab",
    "LeftOutPiece",
    "MergeOptions",
    "MergedVocab",
    "NewPiece",
    "TrainedVocab",
    "TrainingProgress",
    "VocabAudit",
    "audit_vocab",
    "dead_pieces",
    "export_vocab",
    "extend_vocab",
    "merge_vocab",
    "train_vocab",
]
