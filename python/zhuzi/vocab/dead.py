"""Pieces of a vocabulary that no text ever becomes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from zhuzi import _core
from zhuzi.record.place import PathLike
from zhuzi.tokenizer.files import find_model, read_model


class DeadPiece(NamedTuple):
    """A piece that no text becomes. Its row in a model is never trained."""

    id: int
    piece: str
    becomes: tuple[str, ...]
    """The pieces that its own text becomes instead."""
    becomes_ids: tuple[int, ...]
    """Their ids."""


def dead_pieces(model: PathLike | bytes) -> tuple[DeadPiece, ...]:
    """The NORMAL pieces of a BPE model that no text becomes, in the order of their ids.

    `model` is a SentencePiece model (its path or its bytes) or a folder with a `tokenizer.model`. In the
    published 49,953 pieces these are 345 of the new ones (意大利 becomes 意, 大, 利) and 194 of LLaMA's own.

    Why it is exact: until a piece is made, no merge has crossed its ends. So text becomes a piece only where
    the piece's own text, normalised and without the dummy `▁`, becomes it.

    Raises `ModelFileError` for a damaged model and for one that is not BPE, `OSError` if it cannot be read.
    """
    from zhuzi.tokenizer import Tokenizer

    if isinstance(model, bytes):
        data, origin = model, "model"
    else:
        path = find_model(Path(model)) if Path(model).is_dir() else Path(model)
        data, origin = read_model(path), str(path)
    found = _core.dead_pieces(data, origin)
    if not found:
        return ()
    texts = [piece.text for piece in Tokenizer(data, origin=origin).pieces()]
    return tuple(
        DeadPiece(id, texts[id], tuple(texts[part] for part in parts), tuple(parts)) for id, parts in found
    )
