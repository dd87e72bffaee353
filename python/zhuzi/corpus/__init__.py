"""Corpora: text files to training shards, and functions on shards.

Names are loaded when first used: exports bring numpy and pyarrow, encoding brings neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi.corpus.cluster import encode_corpus_on_ray
    from zhuzi.corpus.dataset import Corpus, Shard
    from zhuzi.corpus.encode import EncodedCorpus, encode_corpus
    from zhuzi.corpus.export import ExportedCorpus, as_arrow, export_dataset, export_datatrove
    from zhuzi.corpus.merge import MergedShards, merge_shards
    from zhuzi.corpus.options import SHARD_BYTES, CorpusOptions
    from zhuzi.corpus.plan import CorpusPlan, plan_corpus
    from zhuzi.corpus.read import RecordReader, TextReader, read_records, read_texts
    from zhuzi.corpus.show import DocumentOrigin, ShownDocument, locate_document, show_document
    from zhuzi.corpus.stats import CorpusStats, SourceStats, corpus_stats
    from zhuzi.corpus.verify import verify_corpus

__getattr__, __dir__ = lazy(
    __name__,
    {
        "SHARD_BYTES": "zhuzi.corpus.options",
        "Corpus": "zhuzi.corpus.dataset",
        "CorpusOptions": "zhuzi.corpus.options",
        "CorpusPlan": "zhuzi.corpus.plan",
        "CorpusStats": "zhuzi.corpus.stats",
        "DocumentOrigin": "zhuzi.corpus.show",
        "EncodedCorpus": "zhuzi.corpus.encode",
        "ExportedCorpus": "zhuzi.corpus.export",
        "MergedShards": "zhuzi.corpus.merge",
        "RecordReader": "zhuzi.corpus.read",
        "Shard": "zhuzi.corpus.dataset",
        "ShownDocument": "zhuzi.corpus.show",
        "SourceStats": "zhuzi.corpus.stats",
        "TextReader": "zhuzi.corpus.read",
        "as_arrow": "zhuzi.corpus.export",
        "corpus_stats": "zhuzi.corpus.stats",
        "encode_corpus": "zhuzi.corpus.encode",
        "encode_corpus_on_ray": "zhuzi.corpus.cluster",
        "export_dataset": "zhuzi.corpus.export",
        "export_datatrove": "zhuzi.corpus.export",
        "locate_document": "zhuzi.corpus.show",
        "merge_shards": "zhuzi.corpus.merge",
        "plan_corpus": "zhuzi.corpus.plan",
        "read_records": "zhuzi.corpus.read",
        "read_texts": "zhuzi.corpus.read",
        "show_document": "zhuzi.corpus.show",
        "verify_corpus": "zhuzi.corpus.verify",
    },
)

__all__ = [
    "SHARD_BYTES",
    "Corpus",
    "CorpusOptions",
    "CorpusPlan",
    "CorpusStats",
    "DocumentOrigin",
    "EncodedCorpus",
    "ExportedCorpus",
    "MergedShards",
    "RecordReader",
    "Shard",
    "ShownDocument",
    "SourceStats",
    "TextReader",
    "as_arrow",
    "corpus_stats",
    "encode_corpus",
    "encode_corpus_on_ray",
    "export_dataset",
    "export_datatrove",
    "locate_document",
    "merge_shards",
    "plan_corpus",
    "read_records",
    "read_texts",
    "show_document",
    "verify_corpus",
]
