"""A vocabulary as GGUF, for llama.cpp: pieces, scores, kinds and special ids, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhuzi import _core
from zhuzi.tokenizer import Tokenizer

#: What `gguf.TokenType` calls the kinds of pieces.
_TYPES = {"NORMAL": 1, "UNKNOWN": 2, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5, "BYTE": 6}


def why_not_gguf(tokenizer: Tokenizer) -> str | None:
    """Why llama.cpp does not give the ids of this vocabulary; None if it does."""
    settings = _core.model_settings(tokenizer.model, "model")
    kinds = {piece.kind for piece in tokenizer.pieces()}
    for wrong, what in (
        (settings["has_charsmap"], "the model maps characters (NFKC or the like), and llama.cpp does not"),
        (
            settings["remove_extra_whitespaces"],
            "the model trims white space, and llama.cpp does not",
        ),
        (not settings["escape_whitespaces"], "the model leaves spaces as they are, and llama.cpp does not"),
        (settings["whitespace_as_suffix"], "the model puts the dummy ▁ after the text"),
        (not settings["byte_fallback"], "the model has no byte fallback, which llama.cpp relies on"),
        ("USER_DEFINED" in kinds, "the model has user-defined pieces, after which llama.cpp puts a ▁"),
        ("UNUSED" in kinds, "the model has unused pieces, which llama.cpp does not split again"),
    ):
        if wrong:
            return what
    return None


def write_gguf(tokenizer: Tokenizer, path: Path, *, chat_template: str | None = None) -> None:
    """Write the vocabulary as a GGUF file of the architecture `llama` without tensors.

    Raises `ImportError` without the package `gguf`, which the extra `gguf` installs.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("vocabulary")
    # llama.cpp reads these first, even if only the vocabulary is wanted; there is no model behind them.
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(32)
    add_vocabulary(writer, tokenizer, chat_template=chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def add_vocabulary(
    writer: Any, tokenizer: Tokenizer, *, rows: int | None = None, chat_template: str | None = None
) -> None:
    """Add the pieces, special ids and the chat template to a `gguf.GGUFWriter`.

    llama.cpp wants a piece for each of the embedding's `rows`. Those beyond the tokenizer's ids become unused
    pieces with a space in their names: no text becomes them, as a space in a text is a `▁`.
    """
    pieces = tokenizer.pieces()
    padding = range(len(pieces), rows or len(pieces))
    writer.add_vocab_size(len(pieces) + len(padding))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [*(piece.text.encode() for piece in pieces), *(b"padding %d" % id for id in padding)]
    )
    writer.add_token_scores([*(piece.score for piece in pieces), *(-1000.0 for _ in padding)])
    writer.add_token_types([*(_TYPES[piece.kind] for piece in pieces), *(_TYPES["UNUSED"] for _ in padding)])
    writer.add_unk_token_id(tokenizer.unk_id)
    for id, add in (
        (tokenizer.bos_id, writer.add_bos_token_id),
        (tokenizer.eos_id, writer.add_eos_token_id),
        (tokenizer.pad_id, writer.add_pad_token_id),
    ):
        if id is not None:
            add(id)
    # Written out even where they are llama.cpp's defaults.
    writer.add_add_bos_token(tokenizer.bos_id is not None)
    writer.add_add_eos_token(False)
    settings = _core.model_settings(tokenizer.model, "model")
    writer.add_add_space_prefix(settings["add_dummy_prefix"])
    if chat_template is not None:
        writer.add_chat_template(chat_template)
