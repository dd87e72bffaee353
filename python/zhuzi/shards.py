"""Deprecated: the name that `zhuzi.corpus` had before 0.2."""

import warnings

from zhuzi.corpus.dataset import Corpus, Shard

__all__ = ["Corpus", "Shard"]

warnings.warn(
    "zhuzi.shards is now zhuzi.corpus; the old name goes with 1.0", DeprecationWarning, stacklevel=2
)
