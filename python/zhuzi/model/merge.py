"""Merge adapters into the 16-bit model they were trained on."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi._show import Report
from zhuzi.errors import InputError, MismatchError, TrainingError, naming
from zhuzi.model import stream
from zhuzi.model.adapter import AdapterFolder, is_whole, target_of
from zhuzi.model.ending import write_ending
from zhuzi.model.folder import EMBEDDING, GENERATION, HEAD, ModelFolder
from zhuzi.model.growth import Growth, growth
from zhuzi.model.stream import Progress
from zhuzi.record.disk import require_space
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_folder
from zhuzi.record.place import require_free
from zhuzi.record.provenance import RECORD, kept_template, read_record, write_record

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("zhuzi.model")

_TOLERANCE = 1e-4  # of the merged logits against base plus adapter, both in fp32
_BETWEEN = ".merged-{}"  # a model between two adapters, within the folder that is being made


@dataclass(frozen=True, repr=False)
class MergeReport(Report):
    """What `merge_adapter` made. Differences are max |a - b| / max |b| over the logits of a probe; of several
    adapters, the largest."""

    out: Path
    merged: int  # matrices to which LoRA was added
    replaced: int  # matrices that were trained in full, or in some rows
    difference: float  # merged against base plus adapter, both in fp32: the merge itself
    difference_stored: float  # the saved model against base plus adapter: with the rounding to 16 bit
    verified: bool  # whether the adapter's record proved it intact and made on this base
    rows: int = 0
    grown: int = 0  # rows that an adapter with its own tokenizer added

    def _headline(self) -> str:
        return f"{self.out}: logits differ by {self.difference:.1e}, by {self.difference_stored:.1e} as saved"


def merge_adapter(
    model: str | Path,
    adapter: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    device: str | None = None,
    overwrite: bool = False,
    unverified: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Add LoRA's products to the base's matrices, and replace the matrices that were trained whole.

    Done in fp32 on the CPU, on the stored 16-bit base (merging into a quantised one would keep its error),
    then rounded to the base's own type. Other matrices are copied byte for byte. The result loads in plain
    transformers. The model is read and written one decoder layer at a time: the memory is that of a layer, or
    of the embedding, in fp32, whatever the number of layers.

    Args:
        adapter: one adapter, or several in the order in which they were trained: each is merged into the
            result of those before it, rounded, exactly as by separate calls.
        device: where a probe compares the merged model with base plus adapter; by default a GPU if there is
            one. The bytes do not depend on it.
        unverified: also accept an adapter without zhuzi.json if it fits; nothing proves that it was trained
            on this base. A record that exists is always checked. Such an adapter may hold embedding and head
            whole with more rows than the base, if its folder has the tokenizer of these rows.
        progress: called with the bytes written, and those to write.

    Raises:
        MismatchError: an adapter was made on another base, tokenizer or number of rows, or does not fit it,
            or has no record.
        InputError: no adapter in a folder, or one that was damaged or edited.
        TrainingError: the merged logits differ by more than 1e-4, so the merge is wrong.
        OutputExistsError: `out` holds something and `overwrite` is not set.
    """
    out = Path(out)
    adapters = [adapter] if isinstance(adapter, str | Path) else list(adapter)
    inputs = (model, *adapters)
    require_free(out, overwrite=overwrite, inputs=inputs)
    if not adapters:
        raise ValueError("adapter: name at least one")
    base, made_by = ModelFolder.open(model), [AdapterFolder.open(Path(path)) for path in adapters]
    end = base
    grown: list[Growth | None] = []
    for one in made_by:
        _require_record(one, base, unverified=unverified)
        grown.append(growth(end, one, next((g.original_rows for g in grown if g), None)))
        end = end if grown[-1] is None else grown[-1].of(end)
        one.require_fitting(end)
    size = base.bytes_in("float32") * min(len(adapters), 2)  # no rounding
    require_space(out, size)
    names = ", then ".join(map(str, adapters))
    _log.info(f"merging {names} into {base.path} ({base.rows:,} rows, {base.dtype_name})")
    base.require_rows_of_pieces()
    for one in made_by:
        one.require_whole()
    made_by[0].require_made_on(base)
    for number in range(1, len(made_by)):
        made_by[number].require_next(base, made_by[:number])
    base.require_one_matrix()

    place = _place(device)
    with new_folder(out, overwrite=overwrite, inputs=inputs, size=size) as made:
        differences = _merge_in_order(base, made_by, grown, made, device=place, progress=progress)
    tensors = [name for one in made_by for name in one.tensors]
    return MergeReport(
        out=out,
        merged=sum(len({target_of(n) for n in one.tensors if not is_whole(n)}) for one in made_by),
        replaced=sum(map(is_whole, tensors)),
        difference=max(exact for exact, _ in differences),
        difference_stored=max(stored for _, stored in differences),
        verified=all(one.record is not None for one in made_by),
        rows=end.rows,
        grown=end.rows - base.rows,
    )


def _place(device: str | None) -> torch.device:
    from zhuzi.infer.chat import device_of

    return device_of(device)


def _require_record(adapter: AdapterFolder, base: ModelFolder, *, unverified: bool) -> None:
    if adapter.record is None and not unverified:
        raise naming(
            MismatchError,
            f"{adapter.path}: holds no {RECORD}, so nothing tells whether it was trained on {base.path}; if "
            "you know that it was, merge it with ",
            ("unverified", True),
        )


def _merge_in_order(
    base: ModelFolder,
    adapters: Sequence[AdapterFolder],
    growths: Sequence[Growth | None],
    out: Path,
    *,
    device: torch.device,
    progress: Progress | None,
) -> list[tuple[float, float]]:
    """Write the merged model with its tokenizer; the differences of each adapter, as `_merge` gives them."""
    differences, held, original = [], base, base.original_rows
    for number, (adapter, grown) in enumerate(zip(adapters, growths, strict=True), 1):
        if number > 1:
            before = ", ".join(str(one.path) for one in adapters[: number - 1])
            adapter.require_made_on(held, called=f"{base.path} with {before} merged into it")
        place = out if number == len(adapters) else out / _BETWEEN.format(number)
        place.mkdir(exist_ok=True)
        part = _of(progress, number - 1, len(adapters))
        differences.append(_merge(held, adapter, grown, place, device=device, progress=part))
        tokenizer = held.tokenizer if grown is None else grown.tokenizer
        tokenizer.save(place)
        write_ending(place, tokenizer, _tuned(base, adapters[:number]).get("template"))
        before_it, held = held, ModelFolder.open(place)
        original = original if grown is None else grown.original_rows
        _record(base, adapters[:number], held, original)
        if before_it is not base:
            shutil.rmtree(before_it.path)
    return differences


def _record(
    base: ModelFolder, adapters: Sequence[AdapterFolder], made: ModelFolder, original_rows: int | None
) -> None:
    write_record(
        made.path,
        "merged model",
        base=base.describe(),
        adapter=str(adapters[-1].path),
        adapters=[{"path": str(a.path), "sha256": a.digest} for a in adapters],
        tokenizer=made.tokenizer.fingerprint,
        rows=made.rows,
        original_rows=original_rows,
        **_tuned(base, adapters),
    )


def _tuned(base: ModelFolder, adapters: Sequence[AdapterFolder]) -> dict[str, Any]:
    """The chat template of the last that has one."""
    return kept_template(*(one.record for one in reversed(adapters)), read_record(base.path))


def _of(progress: Progress | None, done: int, steps: int) -> Progress | None:
    """The progress of one of several steps that write as much each."""
    if progress is None:
        return None
    return lambda written, size: progress(done * size + written, steps * size)


def _merge(
    base: ModelFolder,
    adapter: AdapterFolder,
    grown: Growth | None,
    out: Path,
    *,
    device: torch.device,
    progress: Progress | None,
) -> tuple[float, float]:
    """Write the merged model; by how much its logits differ from base plus adapter, exactly and as stored."""
    from zhuzi.model.merging import Merge

    base = base if grown is None else grown.of(base)
    changed = adapter.targets(base)
    if base.tied and HEAD in base.tensors and EMBEDDING in changed:
        changed.add(HEAD)
    shapes = {
        name: (str(base.dtype_of(name)).removeprefix("torch."), base.tensors[name].shape) for name in changed
    }
    files = stream.start_files(base.tensors, out, shapes, progress)
    logits = Merge(base, adapter, files, device).run()
    difference = _difference(logits.merged, logits.adapted)
    if difference > _TOLERANCE and base.tied and {EMBEDDING, HEAD} & set(map(target_of, adapter.tensors)):
        raise InputError(
            f"{adapter.path}: adapts one of embedding and head, which in {base.path} are one matrix "
            "(tie_word_embeddings): they would have to differ; train it on an untied base"
        )
    if not difference <= _TOLERANCE:  # so that NaN fails too
        raise TrainingError(
            f"{adapter.path}: merged into {base.path}, the logits differ by {difference:.1e} (at most "
            f"{_TOLERANCE:.0e}); nothing was written"
        )
    difference_stored = _difference(logits.stored, logits.adapted)
    if math.isnan(difference_stored):
        raise TrainingError(
            f"{adapter.path}: merged into {base.path} and rounded to {base.dtype_name}, the logits are not "
            "finite; nothing was written"
        )
    base.finish(out, files)
    if grown is not None and grown.generation:
        write_json(out / GENERATION, grown.generation)
    return difference, difference_stored


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    scale = float(theirs.abs().max())
    apart = float((ours - theirs).abs().max())
    return apart / scale if scale > 0 and math.isfinite(apart) else (0.0 if apart == 0 else math.nan)
