"""Added tokens in a merge: those of the base, those that are asked for, and those that are left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zhuzi._show import some
from zhuzi.errors import ModelFileError
from zhuzi.record.json_file import read_object
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.added_tokens import read_added_tokens
from zhuzi.tokenizer.files import MODEL_FILE


def tokens_beside(base: Path, *, keep: bool) -> tuple[list[str], list[str]]:
    """Added tokens of a base folder: those that keep their ids, and the others, in the order of their ids.

    With `keep` they are those that have a row in the model, by `vocab_size` in its config.json; all of them
    where no such file says.
    """
    if not base.is_dir():
        return [], []
    tokenizer = Tokenizer.from_dir(base)
    tokens = list(tokenizer.added_tokens)
    if not keep:
        return [], tokens
    rows = None
    if (base / "config.json").is_file():
        rows = read_object(base / "config.json", ModelFileError).get("vocab_size")
    with_row = len(tokens)
    if isinstance(rows, int):
        with_row = max(0, min(with_row, rows - (tokenizer.vocab_size - len(tokens))))
    return tokens[:with_row], tokens[with_row:]


def already_there(
    add_tokens: Sequence[str],
    merged: Tokenizer,
    base_size: int,
    beside: Sequence[str],
    base: Path,
    donors: Sequence[Path],
) -> list[str]:
    """Those of `add_tokens` that the base already has as tokens that text never becomes.

    Raises `ValueError` for a token that cannot be added.
    """
    already = []
    origin = f"the donor {donors[0]}" if len(donors) == 1 else "a donor"
    kinds = [piece.kind for piece in merged.pieces()]
    for position, token in enumerate(add_tokens):
        if token == "":
            raise ValueError("an added token is empty; give it a name, such as [PAD]")
        if not token.isprintable() or token != token.strip():
            raise ValueError(
                f"added token {token!r}: has white space around it or characters that do not print; "
                "leave them out"
            )
        if token in add_tokens[:position]:
            raise ValueError(f"added token `{token}` is given twice; give it once")
        id = merged.token_to_id(token)
        if token in beside or (id is not None and kinds[id] == "CONTROL"):
            already.append(token)
        elif id is not None:
            kind = {"NORMAL": "a", "USER_DEFINED": "a user-defined"}.get(kinds[id], f"a {kinds[id].lower()}")
            owner = f"the base {base}, its id {id}" if id < base_size else f"{origin}, id {id} here"
            raise ValueError(
                f"added token `{token}` is {kind} piece of {owner}: text can become it; choose another name"
            )
    return already


def left_out_of_base(base: Path) -> list[str]:
    """A note on a base given by its file while the folder adds tokens that the file does not have."""
    if base.name != MODEL_FILE:
        return []
    try:
        plain = Tokenizer.from_sentencepiece(base)
        tokens = read_added_tokens(base.parent, plain.vocab_size, plain.id_to_token)
    except (ModelFileError, OSError, ValueError):
        return []  # errors of the model are raised where it is read; the folder was not asked for
    if not tokens:
        return []
    return [
        f"added tokens of {base.parent} left out ({some(tokens)}); to keep them and their rows, give the "
        "folder as the base"
    ]


def left_out_of_donor(donor: Path) -> list[str]:
    """A note on a donor's added tokens, which are not pieces."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(donor / MODEL_FILE))
        tokens = read_added_tokens(donor, model.get_piece_size(), model.id_to_piece)
    except (ModelFileError, OSError, RuntimeError, ValueError):
        return []
    return [f"added tokens of the donor left out, as they are not pieces: {some(tokens)}"] if tokens else []
