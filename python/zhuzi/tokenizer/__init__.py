"""The exact tokenizer: SentencePiece BPE, the ids of `sentencepiece` to the last one."""

from zhuzi.tokenizer.batch import EncodedBatch
from zhuzi.tokenizer.tokenizer import CACHE_BYTES, ArrowArray, Encoding, Piece, Tokenizer

__all__ = ["CACHE_BYTES", "ArrowArray", "EncodedBatch", "Encoding", "Piece", "Tokenizer"]
