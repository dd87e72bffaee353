"""The tokenizer: SentencePiece BPE with exactly the ids of `sentencepiece`."""

from zhuzi.tokenizer.batch import EncodedBatch
from zhuzi.tokenizer.tokenizer import CACHE_BYTES, ArrowArray, Encoding, Piece, Tokenizer

__all__ = ["CACHE_BYTES", "ArrowArray", "EncodedBatch", "Encoding", "Piece", "Tokenizer"]
