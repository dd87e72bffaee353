"""The model that a server answers with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhuzi.infer.engine import Engine, TransformersEngine
from zhuzi.infer.template import Template
from zhuzi.tokenizer import Tokenizer

if TYPE_CHECKING:
    from zhuzi.infer.chat import Bits
    from zhuzi.infer.gguf import GgufFile
    from zhuzi.model.folder import ModelFolder


@dataclass(frozen=True)
class ServedModel:
    """An engine, its tokenizer, and how conversations become ids."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    template: Template
    ends: Collection[int]
    """Ids that end an answer."""


def load_folder(
    folder: ModelFolder | GgufFile,
    *,
    name: str | None = None,
    device: str | None = None,
    bits: Bits | None = None,
    template: Template | None = None,
) -> ServedModel:
    """Load what `open_model` opened; as `Chat.load`. `template` is that of the folder by default."""
    from zhuzi.infer.chat import Chat

    chat = Chat.load(folder, device=device, bits=bits)
    tokenizer = folder.tokenizer
    template = template or chat.template
    named = folder.generation_config.get("eos_token_id")
    ends = {tokenizer.eos_id, template.end_id(tokenizer), *(named if isinstance(named, list) else [named])}
    return ServedModel(
        name=name or folder.path.resolve().name,
        engine=TransformersEngine(chat.model, tokenizer.vocab_size),
        tokenizer=tokenizer,
        template=template,
        ends=frozenset(id for id in ends if isinstance(id, int)),
    )
