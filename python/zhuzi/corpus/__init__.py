"""Corpora: text files to training shards, and what is done with shards afterwards."""

from __future__ import annotations

from zhuzi.corpus.encode import SHARD_BYTES, EncodedCorpus, encode_corpus
from zhuzi.corpus.plan import CorpusPlan, plan_corpus

__all__ = ["SHARD_BYTES", "CorpusPlan", "EncodedCorpus", "encode_corpus", "plan_corpus"]
