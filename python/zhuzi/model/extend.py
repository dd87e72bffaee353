"""Give a model the rows of a larger vocabulary.

A new row starts as the mean of the old rows of the piece's tokens under the old tokenizer, without the dummy
prefix (with it a stray `▁` enters nearly every mean), input and head alike. Mundra et al. 2407.05841 and
Swallow (2404.17790) find this on par with dearer ways of starting them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhuzi._output import new_folder, require_free
from zhuzi.errors import InputError, MismatchError
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder, read_json, write_json, write_record
from zhuzi.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

_HALF = ("float16", "bfloat16")
_log = logging.getLogger("zhuzi.model")


@dataclass(frozen=True)
class ExtendReport:
    """What `extend_model` made."""

    out: Path
    old_rows: int
    new_rows: int
    initialised: int  # rows that started as a mean: the appended ones, and padding rows that became pieces
    dtype: str
    tied: bool
    base_fingerprint: str
    tokenizer_fingerprint: str


def extend_model(
    model: str | Path,
    tokenizer: str | Path | Tokenizer,
    out: str | Path,
    *,
    dtype: Literal["float16", "bfloat16"] | None = None,
    overwrite: bool = False,
) -> ExtendReport:
    """Append a row to embedding and head for each piece the tokenizer has beyond the model's own.

    Works on the stored tensors, a file at a time: no model is built, and every tensor but these two is copied
    to the byte. A base of 16 bits keeps its type and its rows bit for bit; an fp32 base is first rounded to
    `dtype` (bfloat16 if not given).

    Args:
        model: a model folder (with its tokenizer.model) or a hub id.
        tokenizer: the new tokenizer, or its folder; its first ids must be the old tokenizer's.
        out: the new model folder: weights, config, the new tokenizer, and zhuzi.json.

    Raises:
        MismatchError: the new tokenizer is smaller than the model, or does not begin with the old one.
        InputError: the model folder is damaged, or `dtype` would change a 16-bit base.
        OutputExistsError: `out` holds something and `overwrite` is not set.
    """
    out = Path(out)
    inputs = [path for path in (model, tokenizer) if isinstance(path, str | Path)]
    require_free(out, overwrite=overwrite, inputs=inputs)
    base = ModelFolder.open(model)
    new = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_dir(tokenizer)
    old = base.tokenizer
    _require_larger(base, old, new)
    stored = _storage(base, dtype)
    _log.info(f"extending {base.path} from {base.rows:,} rows to {new.vocab_size:,} ({stored})")

    pieces = [old.encode_piece(new.id_to_token(i)) for i in range(old.vocab_size, new.vocab_size)]
    rows = {EMBEDDING: _extend(base.read(EMBEDDING), stored, old.vocab_size, pieces)}
    if base.tied:
        rows |= {HEAD: rows[EMBEDDING].clone()} if HEAD in base.tensors else {}
    else:
        rows[HEAD] = _extend(base.read(HEAD), stored, old.vocab_size, pieces)

    with new_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        base.copy(
            folder,
            rows,
            config=_config(base, new, stored),
            round_to=stored if base.dtype_name == "float32" else None,
        )
        _set_pad(folder / "generation_config.json", new.pad_id)
        new.save(folder)
        write_record(
            folder,
            "extended model",
            base=base.describe(),
            tokenizer=new.fingerprint,
            rows=new.vocab_size,
        )
    return ExtendReport(
        out=out,
        old_rows=base.rows,
        new_rows=new.vocab_size,
        initialised=len(pieces),
        dtype=stored,
        tied=base.tied,
        base_fingerprint=base.fingerprint,
        tokenizer_fingerprint=new.fingerprint,
    )


def _require_larger(base: ModelFolder, old: Tokenizer, new: Tokenizer) -> None:
    base.require_rows()
    if new.vocab_size < base.rows:
        raise MismatchError(
            f"the new tokenizer has {new.vocab_size} ids, the model {base.path} has {base.rows} rows: rows "
            "are never taken away; give a tokenizer that was merged into this model's own"
        )
    for i in range(old.vocab_size):
        if old.id_to_token(i) != new.id_to_token(i):
            raise MismatchError(
                f"id {i} is {old.id_to_token(i)!r} in {base.path} and {new.id_to_token(i)!r} in the new "
                "tokenizer; give a tokenizer that was merged into this model's own"
            )


def _storage(base: ModelFolder, dtype: str | None) -> str:
    """The type the new model is stored in."""
    if dtype is not None and dtype not in _HALF:
        raise ValueError(f"dtype: want float16 or bfloat16, not {dtype!r}")
    if base.dtype_name == "float32":
        return dtype or "bfloat16"
    if dtype is not None and dtype != base.dtype_name:
        raise InputError(
            f"{base.path}: stored as {base.dtype_name}; {dtype} would change its old rows; leave dtype out"
        )
    return base.dtype_name


def _extend(matrix: torch.Tensor, dtype: str, kept: int, pieces: list[list[int]]) -> torch.Tensor:
    """The first `kept` rows of `matrix`, then for each list of ids the mean of their rows (taken in fp64)."""
    import torch

    matrix = matrix.to(getattr(torch, dtype))
    if not pieces:
        return matrix
    flat = torch.tensor([i for ids in pieces for i in ids])
    offsets = torch.tensor([0, *(len(ids) for ids in pieces[:-1])]).cumsum(0)
    means = torch.nn.functional.embedding_bag(flat, matrix.double(), offsets, mode="mean")
    return torch.cat([matrix[:kept], means.to(matrix.dtype)])


def _config(base: ModelFolder, new: Tokenizer, stored: str) -> dict[str, Any]:
    # transformers 5 writes `dtype`, 4 wrote `torch_dtype`: the folder's own name is kept.
    name = "torch_dtype" if "torch_dtype" in base.config else "dtype"
    return {
        "vocab_size": new.vocab_size,
        name: stored,
        "bos_token_id": new.bos_id,
        "eos_token_id": new.eos_id,
        "pad_token_id": new.pad_id,
    }


def _set_pad(path: Path, pad_id: int | None) -> None:
    if path.is_file() and pad_id is not None:
        write_json(path, {**read_json(path), "pad_token_id": pad_id})
