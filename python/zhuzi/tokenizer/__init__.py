"""The tokenizer: SentencePiece BPE with exactly the ids of `sentencepiece`."""

from zhuzi.tokenizer.batch import EncodedBatch
from zhuzi.tokenizer.tokenized import TokenizedText, tokenize_text
from zhuzi.tokenizer.tokenizer import CACHE_BYTES, ArrowArray, Encoding, Piece, Tokenizer, rebuild

_rebuild = rebuild  # where pickles of 0.1 look for it

__all__ = [
    "CACHE_BYTES",
    "ArrowArray",
    "EncodedBatch",
    "Encoding",
    "Piece",
    "TokenizedText",
    "Tokenizer",
    "tokenize_text",
]
