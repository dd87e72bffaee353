"""Merging a donor's pieces into a base model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi._output import PathLike, new_folder
from zhuzi.tokenizer import Tokenizer, read_model


@dataclass(frozen=True)
class MergedVocab:
    """What `merge_vocab` made."""

    folder: Path
    base_size: int
    appended: int
    """Pieces of the donor that the base lacked."""
    shared: int
    """Pieces of the donor that the base already had."""
    left_out: int
    """Control, unknown and byte pieces of the donor that the base lacks."""
    vocab_size: int
    """Ids in all, added tokens included."""


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

    Policy "paper" is the published one: every lacking piece, in the donor's order, with score 0. The base's
    ids keep their meaning. `add_tokens` get the next ids beside the model, which stays the same to the byte;
    text never makes them. LLaMA (32,000) with the published donor gives 49,953 ids, 49,954 with "[PAD]".

    Raises `ModelFileError` for a damaged model, a base that is not BPE or a donor that adds nothing, and
    `OutputExistsError` if `out` holds something.
    """
    base, donor, out = Path(base), Path(donor), Path(out)
    if isinstance(add_tokens, str):
        raise TypeError("add_tokens wants a list of tokens; for one token write [token]")
    with new_folder(out, overwrite=overwrite, inputs=[base, donor]) as folder:
        merged, appended, shared, left_out = _core.merge_vocab(
            read_model(base), str(base), read_model(donor), str(donor), policy
        )
        tokenizer = Tokenizer(merged, added_tokens=add_tokens, origin=str(base))
        tokenizer.save(folder)
        record = {
            "format": 1,
            "kind": "tokenizer",
            "zhuzi": _core.__version__,
            "base": str(base),
            "donor": str(donor),
            "policy": policy,
            "fingerprint": tokenizer.fingerprint,
        }
        (folder / "zhuzi.json").write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", "utf-8")
    base_size = tokenizer.vocab_size - len(add_tokens) - appended
    return MergedVocab(out, base_size, appended, shared, left_out, tokenizer.vocab_size)
