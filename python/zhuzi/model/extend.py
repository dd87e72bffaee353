"""Give a model the rows of a larger vocabulary, and more positions by scaled RoPE.

`initial.py` has the ways in which a new row can start. A piece's tokens under the old tokenizer are taken
without the dummy prefix, which would put a stray `▁` into nearly every mean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zhuzi._show import Report
from zhuzi.errors import InputError, naming
from zhuzi.model.folder import EMBEDDING, GENERATION, HEAD, ModelFolder
from zhuzi.model.initial import INITS, Init
from zhuzi.model.positions import Rope, in_words, positions, rope_of
from zhuzi.model.rows import RowPlan, plan_rows
from zhuzi.model.settings import generation_settings, original_rows, special_ids
from zhuzi.model.stream import Blocks, Progress
from zhuzi.record.disk import require_space
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_folder
from zhuzi.record.place import require_free
from zhuzi.record.provenance import kept_template, read_moves, read_record, write_record
from zhuzi.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

_HALF = ("float16", "bfloat16")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ExtendReport(Report):
    """What `extend_model` made."""

    out: Path
    old_rows: int
    new_rows: int
    initialised: int  # rows of new ids: appended ones, and padding rows that became pieces
    dtype: str
    tied: bool
    base_fingerprint: str
    tokenizer_fingerprint: str
    ids: int = 0  # of the new tokenizer
    padding: int = 0  # rows after those of the ids
    moved: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # token -> its old id, its new one
    # Added tokens of the base without a row -> the tokens of their text, whose mean is `subword-mean`.
    no_row: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # added tokens of the base without a row, which the new tokenizer lacks
    init: Init = "subword-mean"
    seed: int | None = None  # of `normal`
    rope: str = ""  # how RoPE was scaled, as in "linear:4"; empty if it was left
    positions: int | None = None  # tokens that the new model sees at once, as its config.json says

    def _headline(self) -> str:
        scaled = f", {self.positions:,} positions (RoPE {self.rope})" if self.rope else ""
        return f"{self.out}: {self.old_rows:,} rows became {self.new_rows:,}, in {self.dtype}{scaled}"


def extend_model(
    model: str | Path,
    tokenizer: str | Path | Tokenizer | None,
    out: str | Path,
    *,
    dtype: Literal["float16", "bfloat16"] | None = None,
    pad_to_multiple: int | None = None,
    init: Init = "subword-mean",
    seed: int = 0,
    rope: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExtendReport:
    """Give embedding and head a row for each id that the tokenizer has beyond the model's own.

    Works on the stored tensors, a block of rows at a time: no model is built, memory does not grow with its
    size, and every tensor but these two is copied byte for byte. A 16-bit base keeps its type and its rows
    bit for bit; an fp32 base is first rounded to `dtype` (bfloat16 by default). Rows after those of the ids
    are padding: new ids take them first.

    Args:
        model: a model folder (with its tokenizer.model) or a hub id.
        tokenizer: the new tokenizer, or its folder. Every id of the model's own tokenizer must be the same
            token there, or a token that the folder's record says was moved: its rows move with it. None
            keeps the model's own, where only `rope` changes.
        out: the new model folder: weights, config, the new tokenizer, and zhuzi.json.
        pad_to_multiple: add rows of padding up to a multiple of this (64 or 128 suit tensor cores).
        init: how the rows of new ids start: as the mean of the old rows of their piece's tokens
            (`subword-mean`), as the mean of all old rows (`mean`), drawn from the normal distribution with
            the old rows' mean and covariance by `seed` (`normal`), or as `zero` (`zhuzi.model.initial`).
        rope: more positions by scaled RoPE: a kind (`zhuzi.model.positions.KINDS`) and by how much the
            positions before any scaling are multiplied, as in "linear:4". The model has to be trained on
            texts of the new length; without it, `dynamic` loses least.
        progress: called with the bytes written, and those to write.

    Raises:
        MismatchError: a trained row would be lost, or there is nothing to extend.
        InputError: the model folder is damaged, or `dtype` would change a 16-bit base.
        OutputExistsError: `out` holds something and `overwrite` is not set.
        OSError: the disk has too little space (checked before the work starts).
    """
    out = Path(out)
    inputs = [path for path in (model, tokenizer) if isinstance(path, str | Path)]
    _require_valid(pad_to_multiple, init)
    if tokenizer is None and rope is None:
        raise naming(ValueError, "nothing to do: give ", ("tokenizer", None), ", or ", ("rope", "linear:4"))
    scaling = None if rope is None else Rope.parse(rope)
    require_free(out, overwrite=overwrite, inputs=inputs)
    base = ModelFolder.open(model)
    stored = _storage(base, dtype)
    changed = _scaled(base, scaling)
    new, moves = _of_tokenizer(base, tokenizer)
    plan = plan_rows(base, new, moves, pad_to_multiple, nothing=scaling is not None)
    size = _size(base, plan, stored)
    require_space(out, size)
    base.require_one_matrix()
    _log.info(f"extending {base.path} from {base.rows:,} rows to {plan.rows:,} ({stored})")
    matrices = _matrices(base, plan, stored, init, seed)
    start = _start(init, seed, tokenizer)
    with new_folder(out, overwrite=overwrite, inputs=inputs, size=size) as folder:
        _write(folder, base, new, plan, matrices, stored, start, changed, progress)
    return ExtendReport(
        out=out,
        old_rows=base.rows,
        new_rows=plan.rows,
        initialised=len(plan.started),
        dtype=stored,
        tied=base.tied,
        base_fingerprint=base.fingerprint,
        tokenizer_fingerprint=new.fingerprint,
        ids=plan.ids,
        padding=plan.rows - plan.ids,
        moved=plan.moved,
        no_row=_no_row(base, plan),
        left_out=plan.left_out,
        init=init,
        seed=seed if init == "normal" else None,
        rope="" if scaling is None else str(scaling),
        positions=positions({**base.config, **changed}),
    )


def _require_valid(pad_to_multiple: int | None, init: str) -> None:
    if pad_to_multiple is not None and pad_to_multiple < 1:
        raise ValueError(f"pad_to_multiple: want 1 or more, not {pad_to_multiple}")
    if init not in INITS:
        raise ValueError(f"init: want {', '.join(INITS[:-1])} or {INITS[-1]}, not {init!r}")


def _start(init: Init, seed: int, tokenizer: str | Path | Tokenizer | None) -> dict[str, object]:
    """What the record says of the new rows, and where their tokenizer came from."""
    facts: dict[str, object] = {"init": init, "seed": seed} if init == "normal" else {"init": init}
    return {**facts, "tokenizer_path": str(tokenizer)} if isinstance(tokenizer, str | Path) else facts


def _of_tokenizer(
    base: ModelFolder, tokenizer: str | Path | Tokenizer | None
) -> tuple[Tokenizer, dict[str, tuple[int, int]]]:
    """The new model's tokenizer, and the tokens whose ids it moved."""
    if tokenizer is None:
        return base.tokenizer, {}
    if isinstance(tokenizer, Tokenizer):
        return tokenizer, {}
    return Tokenizer.from_dir(tokenizer), read_moves(Path(tokenizer))


def _scaled(base: ModelFolder, scaling: Rope | None) -> dict[str, Any]:
    """What scaling changes in config.json."""
    if scaling is None:
        return {}
    try:
        changed = scaling.settings(base.config)
    except InputError as error:
        raise InputError(f"{base.path}: {error}") from None
    before = rope_of(base.config)
    if before["rope_type"] != "default":
        _log.warning(f"{base.path}: its RoPE was {in_words(before)}; it becomes {scaling} of the same base")
    return changed


def _no_row(base: ModelFolder, plan: RowPlan) -> dict[str, tuple[str, ...]]:
    """Added tokens of the base without a row -> the tokens of their text."""
    named = base.tokenizer.id_to_token
    return {token: tuple(map(named, plan.started[after])) for token, (_, after) in plan.no_row.items()}


def _matrices(base: ModelFolder, plan: RowPlan, stored: str, init: Init, seed: int) -> dict[str, Blocks]:
    """Embedding and head with the new rows, as far as the base stores them; made while they are written."""
    made = {}
    for name in (EMBEDDING, HEAD):
        if name in base.tensors:
            source = EMBEDDING if base.tied else name  # so that both copies of one matrix get the same rows
            shape = (plan.rows, base.tensors[source].shape[1])
            make = partial(_blocks, base, plan, stored, source, init, seed)
            made[name] = Blocks(stored, shape, make)
    return made


def _blocks(
    base: ModelFolder, plan: RowPlan, stored: str, name: str, init: Init, seed: int
) -> Iterator[torch.Tensor]:
    return plan.blocks(base.read(name), stored, name, init, seed)


def _write(
    folder: Path,
    base: ModelFolder,
    new: Tokenizer,
    plan: RowPlan,
    matrices: Mapping[str, Blocks],
    stored: str,
    start: Mapping[str, object],
    changed: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    """Write weights, settings, tokenizer and record of the new model."""
    special = special_ids(base, new, plan)
    # transformers 5 writes `dtype`, 4 wrote `torch_dtype`: the folder's own name is kept.
    dtype_key = "torch_dtype" if "torch_dtype" in base.config else "dtype"
    base.copy(
        folder,
        matrices,
        config={"vocab_size": plan.rows, dtype_key: stored, **special, **changed},
        round_to=stored if base.dtype_name == "float32" else None,
        progress=progress,
    )
    if (folder / GENERATION).is_file():
        write_json(folder / GENERATION, generation_settings(base, special, plan))
    new.save(folder)
    write_record(
        folder,
        "extended model",
        base=base.describe(),
        tokenizer=new.fingerprint,
        rows=plan.rows,
        ids=plan.ids,
        original_rows=original_rows(base, plan),
        moved=plan.moved,
        **start,
        **kept_template(read_record(base.path)),
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


def _size(base: ModelFolder, plan: RowPlan, stored: str) -> int:
    """Bytes of the new weights."""
    matrices = [base.tensors[name] for name in (EMBEDDING, HEAD) if name in base.tensors]
    added = sum((plan.rows - base.rows) * info.shape[1] * 2 for info in matrices)
    return base.bytes_in(stored) + added
