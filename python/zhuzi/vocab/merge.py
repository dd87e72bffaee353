"""Merging a donor's pieces into a base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi._show import Report, some
from zhuzi.errors import ModelFileError
from zhuzi.record.output import new_folder
from zhuzi.record.place import PathLike
from zhuzi.record.provenance import write_record
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.added_tokens import read_added_tokens
from zhuzi.tokenizer.files import MODEL_FILE, read_model


@dataclass(frozen=True, repr=False)
class MergedVocab(Report):
    """What `merge_vocab` made."""

    folder: Path
    base_size: int
    """Pieces of the base's model."""
    appended: int
    """Pieces of the donor that the base lacked."""
    shared: int
    """Pieces of the donor that the base already had."""
    left_out_pieces: tuple[str, ...]
    """Control, unknown and byte pieces of the donor that the base lacks: they have no text."""
    user_defined: tuple[str, ...]
    """Pieces that were appended as user-defined, as in the donor."""
    kept_as_in_base: tuple[str, ...]
    """User-defined pieces of the donor that have another kind in the base; they keep the base's kind."""
    moved: Mapping[str, tuple[int, int]]
    """Added tokens of the base: their ids there and here. `model extend` moves their rows."""
    already: Mapping[str, int]
    """Tokens of `add_tokens` that the base already had, with their ids; they are not added again."""
    vocab_size: int
    """Ids in all, added tokens included."""
    notes: tuple[str, ...] = ()
    """Added tokens of the base or the donor that were left out, one line each."""

    @property
    def left_out(self) -> int:
        """The number of pieces left out."""
        return len(self.left_out_pieces)

    def _headline(self) -> str:
        return f"{self.folder}: {self.vocab_size:,} ids, {self.appended:,} appended"


def merge_vocab(
    base: PathLike,
    donor: PathLike,
    out: PathLike,
    *,
    policy: str = "paper",
    add_tokens: Sequence[str] = (),
    overwrite: bool = False,
) -> MergedVocab:
    """Append to the model `base` the pieces of `donor` that it lacks, and write a tokenizer folder.

    Both are SentencePiece models or folders with a `tokenizer.model`. Policy "paper" is the published one:
    every missing piece, in the donor's order, with score 0. User-defined and unused pieces stay so. The ids
    of the base's pieces do not change.

    After the pieces come the added tokens of a base folder (`<pad>`, ChatML's), then those of `add_tokens`
    that the base lacks; text never becomes one. The former's old ids now belong to the donor's pieces: the
    record `zhuzi.json` has each token's old and new id under `moved_tokens`, and `extend_model` moves their
    rows. LLaMA (32,000) with the published donor gives 49,953 ids, 49,954 with "[PAD]".

    Raises:
        ModelFileError: a damaged model, a base that is not BPE, a donor that adds nothing.
        ValueError: a token to add that is empty, given twice, or a piece.
        OutputExistsError: `out` may not be written.
    """
    base, donor, out = Path(base), Path(donor), Path(out)
    if isinstance(add_tokens, str):
        raise TypeError("add_tokens wants a list of tokens; for one token write [token]")
    with new_folder(out, overwrite=overwrite, inputs=[base, donor]) as folder:
        beside = Tokenizer.from_dir(base).added_tokens if base.is_dir() else ()
        notes = [] if base.is_dir() else _beside_file(base)
        if donor.is_dir():
            notes += _beside_donor(donor)
        base_file, donor_file = _model_file(base), _model_file(donor)
        model = read_model(base_file)
        merged, appended, shared, left_out, user_defined, kept_as_in_base = _core.merge_vocab(
            model, str(base_file), read_model(donor_file), str(donor_file), policy, beside
        )
        plain = Tokenizer(merged, origin=str(base_file))
        base_size = plain.vocab_size - appended
        known = _already(add_tokens, plain, base_size, beside, base_file, donor_file)
        added = [*beside, *(token for token in add_tokens if token not in known)]
        tokenizer = Tokenizer(merged, added_tokens=added, origin=str(base_file))
        moved = {token: (base_size + i, plain.vocab_size + i) for i, token in enumerate(beside)}
        already = {token: id for token in known if (id := tokenizer.token_to_id(token)) is not None}
        tokenizer.save(folder)
        write_record(
            folder,
            "tokenizer",
            base=str(base),
            donor=str(donor),
            policy=policy,
            fingerprint=tokenizer.fingerprint,
            moved=moved,
        )
    return MergedVocab(
        folder=out,
        base_size=base_size,
        appended=appended,
        shared=shared,
        left_out_pieces=tuple(left_out),
        user_defined=tuple(user_defined),
        kept_as_in_base=tuple(kept_as_in_base),
        moved=moved,
        already=already,
        vocab_size=tokenizer.vocab_size,
        notes=tuple(notes),
    )


def _model_file(path: Path) -> Path:
    """The SentencePiece model that a file or folder names."""
    if path.suffix == ".json" and path.is_file():
        raise ModelFileError(
            f"{path}: is not a SentencePiece model; give {path.with_name(MODEL_FILE)}"
            if path.with_name(MODEL_FILE).exists()
            else f"{path}: is not a SentencePiece model, and there is no {MODEL_FILE} beside it; LLaMA 3 and "
            "Qwen have none, take a base that comes with one"
        )
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).exists():
        raise ModelFileError(f"{path}: holds no {MODEL_FILE}; name a SentencePiece model file")
    return path / MODEL_FILE


def _already(
    add_tokens: Sequence[str],
    merged: Tokenizer,
    base_size: int,
    beside: Sequence[str],
    base: Path,
    donor: Path,
) -> list[str]:
    """Those of `add_tokens` that the base already has as tokens that text never becomes.

    Raises `ValueError` for a token that cannot be added.
    """
    already = []
    kinds = [piece.kind for piece in merged.pieces()]
    for position, token in enumerate(add_tokens):
        if token == "":
            raise ValueError("an added token is empty; give it a name, such as [PAD]")
        if token in add_tokens[:position]:
            raise ValueError(f"added token `{token}` is given twice; give it once")
        id = merged.token_to_id(token)
        if token in beside or (id is not None and kinds[id] == "CONTROL"):
            already.append(token)
        elif id is not None:
            kind = {"NORMAL": "a", "USER_DEFINED": "a user-defined"}.get(kinds[id], f"a {kinds[id].lower()}")
            owner = f"the base {base}, its id {id}" if id < base_size else f"the donor {donor}, id {id} here"
            raise ValueError(
                f"added token `{token}` is {kind} piece of {owner}: text can become it; choose another name"
            )
    return already


def _beside_file(base: Path) -> list[str]:
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


def _beside_donor(donor: Path) -> list[str]:
    """A note on a donor's added tokens, which are not pieces."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(donor / MODEL_FILE))
        tokens = read_added_tokens(donor, model.get_piece_size(), model.id_to_piece)
    except (ModelFileError, OSError, RuntimeError, ValueError):
        return []
    return [f"added tokens of the donor left out, as they are not pieces: {some(tokens)}"] if tokens else []
