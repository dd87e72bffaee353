"""A world small enough for a test: 400 pieces, 410 merged ones, a 2-layer LLaMA, a corpus, records."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import CHINESE, ENGLISH, PROSE, append_pieces, write_corpus

pytest.importorskip("torch", reason="the training stack is the extra `train`")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more to threads that wait for each other than they gain; processes too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    del os.environ["OMP_NUM_THREADS"]
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def old_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LLaMA-like SentencePiece BPE of 400 pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH.splitlines() * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("old-tokenizer")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def new_tokenizer(old_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with Chinese pieces of score 0 appended, and [PAD] as an added token."""
    folder = tmp_path_factory.mktemp("new-tokenizer")
    (folder / "tokenizer.model").write_bytes(
        append_pieces((old_tokenizer / "tokenizer.model").read_bytes(), CHINESE)
    )
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 400 + len(CHINESE)}))
    return folder


@pytest.fixture(scope="session")
def make_model(old_tokenizer: Path) -> Callable[..., Path]:
    """Writes a tiny random LLaMA, with its tokenizer, into a folder."""

    def make(
        folder: Path,
        *,
        rows: int = 400,
        dtype: str = "float16",
        tokenizer: Path = old_tokenizer,
        **settings: Any,
    ) -> Path:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
        }
        config = LlamaConfig(vocab_size=rows, bos_token_id=1, eos_token_id=2, **{**shape, **settings})
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
        model.save_pretrained(folder, max_shard_size="20KB" if settings else "1GB")
        for file in tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return make


@pytest.fixture(scope="session")
def make_stored_twice(make_model: Callable[..., Path]) -> Callable[[Path], Path]:
    """A tied model whose files hold the one matrix under both names, as some converters write it."""

    def make(folder: Path) -> Path:
        from safetensors.torch import load_file, save_file

        make_model(folder, tie_word_embeddings=True)
        index = folder / "model.safetensors.index.json"
        places = json.loads(index.read_text())
        file = folder / places["weight_map"]["model.embed_tokens.weight"]
        held = load_file(file)
        held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
        save_file(held, file, metadata={"format": "pt"})
        places["weight_map"]["lm_head.weight"] = file.name
        index.write_text(json.dumps(places))
        return folder

    return make


@pytest.fixture(scope="session")
def base_model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 400 rows in fp16."""
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def model(base_model: Path, new_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, extended by the new tokenizer."""
    from zhuzi.model.extend import extend_model

    out = tmp_path_factory.mktemp("extended") / "model"
    extend_model(base_model, new_tokenizer, out)
    return out


@pytest.fixture(scope="session")
def corpus(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoded corpus of two shards, by the new tokenizer."""
    from zhuzi import Tokenizer

    tokenizer = Tokenizer.from_dir(model)
    lines = (ENGLISH + (PROSE + "\n") * 12).splitlines()
    documents = [tokenizer.encode(line, add_eos=True) for line in lines]
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(
        folder,
        [documents[:7], documents[7:]],
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
    )
    return folder


@pytest.fixture(scope="session")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four Alpaca records."""
    path = tmp_path_factory.mktemp("instructions") / "records.json"
    records = [
        {"instruction": "你好", "input": "", "output": "世界"},
        {"instruction": "Say {it}.", "input": "bread", "output": "bread"},
        {"instruction": "机器学习", "output": "人工智能"},
        {"instruction": "天", "input": None, "output": "地"},
    ]
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def stage1(model: Path, corpus: Path, tmp_path: Path) -> Callable[..., Any]:
    """A recipe of the embedding alone, with what a test changes."""
    from zhuzi.train.recipe import PretrainRecipe

    def make(**changes: Any) -> Any:
        settings = {
            "task": "pretrain", "model": str(model), "corpus": corpus, "output": tmp_path / "run",
            "modules_to_save": ["embed_tokens"], "sequence_length": 16, "steps": 6, "batch_size": 4,
            "micro_batch_size": 2, "learning_rate": 1e-2, "log_every": 2, "save_every": 3,
        }  # fmt: skip
        return PretrainRecipe.model_validate({**settings, **changes})

    return make


@pytest.fixture
def stage2(stage1: Callable[..., Any]) -> Callable[..., Any]:
    """A recipe of LoRA, embedding and head over an 8-bit base."""

    def make(**changes: Any) -> Any:
        lora = {"rank": 4, "alpha": 16, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
        settings = {"modules_to_save": ["embed_tokens", "lm_head"], "lora": lora, "base_bits": 8}
        return stage1(**{**settings, **changes})

    return make
