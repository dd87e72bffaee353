"""Corpora: text files to training shards, and what is done with shards afterwards.

Names are loaded when first used: exports bring numpy and pyarrow, encoding brings neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhuzi.corpus.cluster import encode_corpus_on_ray
    from zhuzi.corpus.encode import SHARD_BYTES, EncodedCorpus, encode_corpus
    from zhuzi.corpus.export import ExportedCorpus, as_arrow, export_dataset, export_datatrove
    from zhuzi.corpus.plan import CorpusPlan, plan_corpus
    from zhuzi.corpus.shards import MergedShards, merge_shards, verify_corpus
    from zhuzi.corpus.show import DocumentOrigin, ShownDocument, locate_document, show_document
    from zhuzi.corpus.stats import CorpusStats, SourceStats, corpus_stats

_HOMES = {
    "SHARD_BYTES": "encode",
    "CorpusPlan": "plan",
    "CorpusStats": "stats",
    "DocumentOrigin": "show",
    "EncodedCorpus": "encode",
    "ExportedCorpus": "export",
    "MergedShards": "shards",
    "ShownDocument": "show",
    "SourceStats": "stats",
    "as_arrow": "export",
    "corpus_stats": "stats",
    "encode_corpus": "encode",
    "encode_corpus_on_ray": "cluster",
    "export_dataset": "export",
    "export_datatrove": "export",
    "locate_document": "show",
    "merge_shards": "shards",
    "plan_corpus": "plan",
    "show_document": "show",
    "verify_corpus": "shards",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zhuzi.corpus' has no attribute {name!r}")
    value = getattr(import_module(f"zhuzi.corpus.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "SHARD_BYTES",
    "CorpusPlan",
    "CorpusStats",
    "DocumentOrigin",
    "EncodedCorpus",
    "ExportedCorpus",
    "MergedShards",
    "ShownDocument",
    "SourceStats",
    "as_arrow",
    "corpus_stats",
    "encode_corpus",
    "encode_corpus_on_ray",
    "export_dataset",
    "export_datatrove",
    "locate_document",
    "merge_shards",
    "plan_corpus",
    "show_document",
    "verify_corpus",
]
