"""Zhuzi (铸字, "casting type"): teach an existing LLaMA Chinese.

Vocabulary, corpus, model, pre-training, instruction tuning, chat: each step is a command (`zhuzi --help`) and
a function here. Names are loaded when first used, so that `import zhuzi` stays quick and never brings torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from zhuzi._core import __version__

if TYPE_CHECKING:
    from zhuzi.chat import Chat
    from zhuzi.corpus import encode_corpus
    from zhuzi.demo import run_demo
    from zhuzi.errors import ZhuziError
    from zhuzi.evaluate import bits_per_byte
    from zhuzi.model import extend_model, merge_adapter
    from zhuzi.shards import Corpus
    from zhuzi.tokenizer import EncodedBatch, Encoding, Tokenizer
    from zhuzi.train import load_recipe, pretrain, sft
    from zhuzi.vocab import merge_vocab, train_vocab

_HOMES = {
    "Chat": "zhuzi.chat",
    "Corpus": "zhuzi.shards",
    "EncodedBatch": "zhuzi.tokenizer",
    "Encoding": "zhuzi.tokenizer",
    "Tokenizer": "zhuzi.tokenizer",
    "ZhuziError": "zhuzi.errors",
    "bits_per_byte": "zhuzi.evaluate",
    "encode_corpus": "zhuzi.corpus",
    "extend_model": "zhuzi.model",
    "load_recipe": "zhuzi.train",
    "merge_adapter": "zhuzi.model",
    "merge_vocab": "zhuzi.vocab",
    "pretrain": "zhuzi.train",
    "run_demo": "zhuzi.demo",
    "sft": "zhuzi.train",
    "train_vocab": "zhuzi.vocab",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zhuzi' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = [
    "Chat",
    "Corpus",
    "EncodedBatch",
    "Encoding",
    "Tokenizer",
    "ZhuziError",
    "__version__",
    "bits_per_byte",
    "encode_corpus",
    "extend_model",
    "load_recipe",
    "merge_adapter",
    "merge_vocab",
    "pretrain",
    "run_demo",
    "sft",
    "train_vocab",
]
