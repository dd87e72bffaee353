"""The files of a tokenizer folder: their names, and how they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zhuzi.errors import ModelFileError
from zhuzi.record.json_file import read_object

MODEL_FILE = "tokenizer.model"
#: The model in a folder that `zhuzi.hf.ZhuziTokenizer` saved: no other class of transformers reads it.
HF_MODEL_FILE = "zhuzi.model"
ADDED_TOKENS_FILE = "added_tokens.json"
CONFIG_FILE = "tokenizer_config.json"
FAST_FILE = "tokenizer.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

#: How `version` begins in the tokenizer.json that we write, which has no vocabulary (see `Tokenizer.save`).
GUARD = "none. No tokenizer.json can hold this vocabulary exactly"

# The `tokenizers` library turns scores into unique ranks, which gives other ids wherever scores tie (88 % of
# documents on the merged vocabulary). It reads this file first and refuses it, showing the version,
# so that `LlamaTokenizer` and `TokenizersBackend` fail clearly instead of giving other ids.
GUARD_FILE: dict[str, object] = {
    "version": f"{GUARD}: load the folder with AutoTokenizer "
    "(its SentencePiece backend) or with zhuzi.Tokenizer",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}

# The same beside `zhuzi.model`.
HF_GUARD = "none. This folder is read by zhuzi.hf.ZhuziTokenizer"
HF_GUARD_FILE = {
    **GUARD_FILE,
    "version": f"{HF_GUARD}: `import zhuzi.hf` before AutoTokenizer.from_pretrained",
}


def is_guard(fast: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is one of ours that holds no vocabulary."""
    return str(fast.get("version")).startswith((GUARD, HF_GUARD))


def find_model(folder: Path) -> Path:
    """The `tokenizer.model` of a folder; raises `ModelFileError` or `FileNotFoundError` if it has none."""
    path = folder / MODEL_FILE
    if not path.exists() and (folder / HF_MODEL_FILE).exists():
        return folder / HF_MODEL_FILE
    if not path.exists():
        if folder.is_file():
            raise ModelFileError(f"{folder}: is a file; name the folder it is in")
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder")
        if made_from_sentencepiece(folder / FAST_FILE):
            raise ModelFileError(
                f"{folder}: holds a tokenizer.json, but not the {MODEL_FILE} it was made from "
                f"(transformers 5 does not save it); copy {MODEL_FILE} of the original model there"
            )
        fast = [name for name in (FAST_FILE, "vocab.json") if (folder / name).exists()]
        if fast:
            raise ModelFileError(
                f"{folder}: holds a {fast[0]} but no {MODEL_FILE}; this model's tokenizer is not "
                "a SentencePiece model (LLaMA 3 and Qwen have none), take a base that comes with one"
            )
        raise ModelFileError(f"{folder}: holds no {MODEL_FILE}; copy the base model's there")
    return path


def read_model(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a model file; limited, so that a wrong path (such as weights) cannot fill the memory."""
    limit = 256 << 20
    with Path(path).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ModelFileError(f"{path}: too large for a SentencePiece model; give the {MODEL_FILE} file")
    return data


def made_from_sentencepiece(path: Path) -> bool:
    """Whether a tokenizer.json was made from a SentencePiece BPE model, which has a piece for each byte."""
    try:
        vocabulary = {token for token, _ in fast_vocabulary(read_if_there(path))}
    except ModelFileError:
        return False
    return {f"<0x{byte:02X}>" for byte in range(256)} <= vocabulary


def fast_vocabulary(fast: dict[str, Any]) -> list[tuple[str, int]]:
    """(piece, id) of a tokenizer.json, which has a table for BPE and a list of (piece, score) for Unigram."""
    model = fast.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return [(token, id) for token, id in vocabulary.items() if isinstance(id, int)]
    if isinstance(vocabulary, list):
        return [(entry[0], id) for id, entry in enumerate(vocabulary) if isinstance(entry, list) and entry]
    return []


def read_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    try:
        return read_object(path, ModelFileError)
    except FileNotFoundError:
        return {}
