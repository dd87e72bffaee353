"""`zhuzi.corpus.dataset` by the name it had first."""

from zhuzi.corpus.dataset import Corpus, Shard

__all__ = ["Corpus", "Shard"]
