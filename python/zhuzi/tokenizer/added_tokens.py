"""Tokens added to a SentencePiece model, as the files of a tokenizer or model folder declare them.

Where depends on the library that wrote the folder: `added_tokens.json` (transformers 4, slow tokenizers),
`added_tokens_decoder` in `tokenizer_config.json` (since 4.34), `added_tokens` in `tokenizer.json` (fast
tokenizers, and all that transformers 5 saves). The embedding may have a trained row for each of them, so
all files are read, and must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from zhuzi.errors import ModelFileError
from zhuzi.tokenizer.files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    FAST_FILE,
    MODEL_FILE,
    SPECIAL_TOKENS_FILE,
    fast_vocabulary,
    is_guard,
    read_if_there,
)

_KEEP = "keep the file that the model was trained with"


def read_added_tokens(folder: Path, pieces: int, piece: Callable[[int], str]) -> list[str]:
    """Tokens whose ids come after those of the model's `pieces` pieces, in the order of their ids.

    `piece` gives the model's own piece for an id; what a file says of that id must agree.

    Raises:
        ModelFileError: a file cannot be read, two disagree, one disagrees with the model, or an id after the
            model's has no token.
    """
    added: dict[int, tuple[str, Path]] = {}
    ids: dict[str, int] = {}
    for path, token, id in _entries(folder, pieces):
        if id < pieces:
            if id < 0 or not _names(token, piece(id)):
                raise ModelFileError(
                    f"{path}: gives {token!r} the id {id}, which is another piece of {MODEL_FILE}; added "
                    f"tokens start at {pieces}: put the files of one tokenizer into the folder"
                )
            continue
        known, where = added.setdefault(id, (token, path))
        if known != token:
            raise ModelFileError(
                f"{path}: gives {token!r} the id {id}, which is {known!r} in {where.name}; {_KEEP}"
            )
        if ids.setdefault(token, id) != id:
            raise ModelFileError(
                f"{path}: gives {token!r} the id {id}, which has {ids[token]} in "
                f"{added[ids[token]][1].name}; {_KEEP}"
            )
    wanted = range(pieces, pieces + len(added))
    if sorted(added) != list(wanted):
        raise ModelFileError(
            f"{max(added.items())[1][1]}: the ids of added tokens must start at {pieces}, where the "
            f"model's end; they are {sorted(added)}"
        )
    return [added[id][0] for id in wanted]


def names_without_id(folder: Path, known: Container[str]) -> list[str]:
    """Special tokens that a folder names but to which no file gives an id, except those in `known`.

    A library that loads the folder appends them to the vocabulary.
    """
    names: dict[str, None] = {}
    for file in (SPECIAL_TOKENS_FILE, CONFIG_FILE):
        for key, value in read_if_there(folder / file).items():
            if not key.endswith(("_token", "_special_tokens")):
                continue
            for token in value if isinstance(value, list) else [value]:
                text = token.get("content") if isinstance(token, dict) else token
                if isinstance(text, str) and text not in known:
                    names[text] = None
    return list(names)


def _entries(folder: Path, pieces: int) -> Iterator[tuple[Path, str, int]]:
    """(file, token, id) wherever a file gives a token an id."""
    path = folder / ADDED_TOKENS_FILE
    yield from _typed(path, read_if_there(path).items())

    path = folder / CONFIG_FILE
    decoder = read_if_there(path).get("added_tokens_decoder") or {}
    yield from _typed(path, ((_content(path, entry), id) for id, entry in _items(path, decoder)))

    path = folder / FAST_FILE
    fast = read_if_there(path)
    if is_guard(fast):
        return
    added = [(_content(path, entry), entry.get("id")) for entry in fast.get("added_tokens") or []]
    yield from _typed(path, added)
    held = {token for token, _ in added}
    beyond = 0
    for token, id in fast_vocabulary(fast):
        beyond += id >= pieces and token not in held
        if id < pieces:
            yield path, token, id
    if beyond:
        raise ModelFileError(
            f"{path}: holds {pieces + beyond} pieces, {MODEL_FILE} beside it {pieces}; put the {MODEL_FILE} "
            "there that it was made from"
        )


def _names(token: str, piece: str) -> bool:
    """Whether both name the same piece; Gemma's tokenizer.json calls the byte <0x09> by its character."""
    return token == piece or (len(token) == 1 and piece == f"<0x{ord(token):02X}>")


def _typed(path: Path, entries: Iterable[tuple[object, object]]) -> Iterator[tuple[Path, str, int]]:
    for token, id in entries:
        try:
            yield path, str(token), int(id)  # type: ignore[call-overload]  # what JSON holds, "32000" too
        except (TypeError, ValueError):
            raise ModelFileError(f"{path}: gives {token!r} the id {id!r}, which is not a number") from None


def _items(path: Path, value: object) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: added_tokens_decoder is not a table of id to token")
    return value.items()


def _content(path: Path, entry: object) -> object:
    if not isinstance(entry, dict) or "content" not in entry:
        raise ModelFileError(f"{path}: an added token without `content` ({entry!r})")
    return entry["content"]
