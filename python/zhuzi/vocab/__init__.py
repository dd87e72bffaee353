"""Vocabularies: train a Chinese donor, merge it into a base."""

from __future__ import annotations

from zhuzi.vocab.merge import MergedVocab, merge_vocab
from zhuzi.vocab.sample import SAMPLE_BYTES
from zhuzi.vocab.train import (
    PAPER_VOCAB_SIZE,
    TrainedVocab,
    TrainingProgress,
    train_vocab,
)

__all__ = [
    "PAPER_VOCAB_SIZE",
    "SAMPLE_BYTES",
    "MergedVocab",
    "TrainedVocab",
    "TrainingProgress",
    "merge_vocab",
    "train_vocab",
]
