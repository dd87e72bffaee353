"""Zhuzi (铸字, "casting type"): teach an existing LLaMA Chinese.

Vocabulary, corpus, model, pre-training, instruction tuning, chat: each step is a command (`zhuzi --help`) and
a function here. Names are loaded when first used, so that `import zhuzi` stays quick and never brings torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhuzi._core import __version__
from zhuzi._lazy import lazy

if TYPE_CHECKING:
    from zhuzi import (
        corpus,
        demo,
        doctor,
        errors,
        infer,
        instruct,
        model,
        serve,
        tokenizer,
        train,
        vocab,
    )
    from zhuzi.corpus import Corpus, CorpusOptions, encode_corpus
    from zhuzi.demo import run_demo
    from zhuzi.endpoint import Endpoint
    from zhuzi.errors import (
        EndpointError,
        InputError,
        MismatchError,
        ModelFileError,
        OutputExistsError,
        RecipeError,
        TrainingError,
        TrainingInterrupted,
        VocabSizeError,
        ZhuziError,
    )
    from zhuzi.eval import bits_per_byte
    from zhuzi.infer import Chat, Sampling
    from zhuzi.instruct import collect_instructions
    from zhuzi.model import export_model, extend_model, merge_adapter
    from zhuzi.serve import ServeSettings, serve_model
    from zhuzi.tokenizer import EncodedBatch, Encoding, Tokenizer
    from zhuzi.train import load_recipe, pretrain, sft
    from zhuzi.vocab import extend_vocab, merge_vocab, train_vocab

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Chat": "zhuzi.infer.chat",
        "Corpus": "zhuzi.corpus",
        "CorpusOptions": "zhuzi.corpus",
        "EncodedBatch": "zhuzi.tokenizer",
        "Encoding": "zhuzi.tokenizer",
        "Endpoint": "zhuzi.endpoint",
        "EndpointError": "zhuzi.errors",
        "InputError": "zhuzi.errors",
        "MismatchError": "zhuzi.errors",
        "ModelFileError": "zhuzi.errors",
        "OutputExistsError": "zhuzi.errors",
        "RecipeError": "zhuzi.errors",
        "Sampling": "zhuzi.infer.sampling",
        "ServeSettings": "zhuzi.serve",
        "Tokenizer": "zhuzi.tokenizer",
        "TrainingError": "zhuzi.errors",
        "TrainingInterrupted": "zhuzi.errors",
        "VocabSizeError": "zhuzi.errors",
        "ZhuziError": "zhuzi.errors",
        "bits_per_byte": "zhuzi.eval",
        "chat": None,
        "collect_instructions": "zhuzi.instruct",
        "corpus": None,
        "demo": None,
        "doctor": None,
        "encode_corpus": "zhuzi.corpus",
        "errors": None,
        "eval": None,  # not in __all__: `from zhuzi import *` must leave Python's own alone
        "evaluate": None,
        "export_model": "zhuzi.model",
        "extend_model": "zhuzi.model",
        "hf": None,  # not in __all__ either: it imports transformers
        "extend_vocab": "zhuzi.vocab",
        "infer": None,
        "instruct": None,
        "load_recipe": "zhuzi.train",
        "merge_adapter": "zhuzi.model",
        "merge_vocab": "zhuzi.vocab",
        "model": None,
        "pretrain": "zhuzi.train",
        "run_demo": "zhuzi.demo",
        "serve": None,
        "serve_model": "zhuzi.serve",
        "sft": "zhuzi.train",
        "shards": None,
        "tokenizer": None,
        "train": None,
        "train_vocab": "zhuzi.vocab",
        "vocab": None,
    },
)

__all__ = [
    "Chat",
    "Corpus",
    "CorpusOptions",
    "EncodedBatch",
    "Encoding",
    "Endpoint",
    "EndpointError",
    "InputError",
    "MismatchError",
    "ModelFileError",
    "OutputExistsError",
    "RecipeError",
    "Sampling",
    "ServeSettings",
    "Tokenizer",
    "TrainingError",
    "TrainingInterrupted",
    "VocabSizeError",
    "ZhuziError",
    "__version__",
    "bits_per_byte",
    "collect_instructions",
    "corpus",
    "demo",
    "doctor",
    "encode_corpus",
    "errors",
    "export_model",
    "extend_model",
    "extend_vocab",
    "infer",
    "instruct",
    "load_recipe",
    "merge_adapter",
    "merge_vocab",
    "model",
    "pretrain",
    "run_demo",
    "serve",
    "serve_model",
    "sft",
    "tokenizer",
    "train",
    "train_vocab",
    "vocab",
]
