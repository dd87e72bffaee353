"""Merge an adapter into the 16-bit model it was trained on."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi._show import Report
from zhuzi.errors import InputError, MismatchError, TrainingError, ZhuziError, naming
from zhuzi.model.adapter import RESTORE, AdapterFolder, is_whole, target_of
from zhuzi.model.ending import write_ending
from zhuzi.model.folder import ADAPTER_FILES, EMBEDDING, HEAD, ModelFolder, first_line
from zhuzi.model.weights import load_tensor
from zhuzi.record.disk import require_space
from zhuzi.record.output import new_folder
from zhuzi.record.place import require_free
from zhuzi.record.provenance import RECORD, kept_template, read_record, write_record

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("zhuzi.model")

_TOLERANCE = 1e-4  # of the merged logits against base plus adapter, both in fp32


@dataclass(frozen=True, repr=False)
class MergeReport(Report):
    """What `merge_adapter` made. Differences are max |a - b| / max |b| over the logits of a probe."""

    out: Path
    merged: int  # matrices to which LoRA was added
    replaced: int  # matrices that were trained in full, or in some rows
    difference: float  # merged against base plus adapter, both in fp32: the merge itself
    difference_stored: float  # the saved model against base plus adapter: with the rounding to 16 bit
    verified: bool  # whether the adapter's record proved it intact and made on this base

    def _headline(self) -> str:
        return f"{self.out}: logits differ by {self.difference:.1e}, by {self.difference_stored:.1e} as saved"


def merge_adapter(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    unverified: bool = False,
) -> MergeReport:
    """Add LoRA's products to the base's matrices, and replace the matrices that were trained whole.

    Done in fp32 on the CPU, on the stored 16-bit base (merging into a quantised one would keep its error),
    then rounded to the base's own type. Other matrices are copied byte for byte. The result loads in plain
    transformers.

    Args:
        unverified: also accept an adapter without zhuzi.json if it fits; nothing proves that it was trained
            on this base. A record that exists is always checked.

    Raises:
        MismatchError: the adapter was made on another base, tokenizer or number of rows, or does not fit it,
            or has no record.
        InputError: no adapter in the folder, or one that was damaged or edited.
        TrainingError: the merged logits differ by more than 1e-4, so the merge is wrong.
        OutputExistsError: `out` holds something and `overwrite` is not set.
    """
    out = Path(out)
    inputs = (model, adapter)
    require_free(out, overwrite=overwrite, inputs=inputs)
    base, made_by = ModelFolder.open(model), AdapterFolder.open(Path(adapter))
    verified = made_by.record is not None
    if not verified and not unverified:
        raise naming(
            MismatchError,
            f"{adapter}: holds no {RECORD}, so nothing tells whether it was trained on {base.path}; if you "
            "know that it was, merge it with ",
            ("unverified", True),
        )
    made_by.require_fitting(base)
    size = base.bytes_in("float32")  # no rounding
    require_space(out, size)
    _log.info(f"merging {adapter} into {base.path} ({base.rows:,} rows, {base.dtype_name})")
    made_by.require_whole()
    made_by.require_made_on(base)

    probe = _probe(base.rows)
    matrices, wanted, difference = _merge(base, made_by, probe)
    tuned = kept_template(made_by.record, read_record(base.path))
    with new_folder(out, overwrite=overwrite, inputs=inputs, size=size) as made:
        base.copy(made, matrices)
        base.tokenizer.save(made)
        write_ending(made, base.tokenizer, tuned.get("template"))
        write_record(
            made,
            "merged model",
            base=base.describe(),
            adapter=str(adapter),
            tokenizer=base.tokenizer.fingerprint,
            rows=base.rows,
            original_rows=base.original_rows,
            **tuned,
        )
        difference_stored = _difference(_logits(_reload(made), probe), wanted)
        if math.isnan(difference_stored):
            raise TrainingError(
                f"{adapter}: merged into {base.path} and rounded to {base.dtype_name}, the logits are not "
                "finite; nothing was written"
            )
    return MergeReport(
        out=out,
        merged=len({target_of(name) for name in made_by.tensors if not is_whole(name)}),
        replaced=sum(map(is_whole, made_by.tensors)),
        difference=difference,
        difference_stored=difference_stored,
        verified=verified,
    )


def _merge(
    base: ModelFolder, adapter: AdapterFolder, probe: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
    """The changed matrices as stored; the logits of base plus adapter; by how much the merged ones differ."""
    merged = load_adapted(base, adapter)
    wanted = _logits(merged, probe)
    try:
        merged = merged.merge_and_unload().eval()
    except Exception as error:  # PEFT can train some adapters that it cannot merge
        raise InputError(f"{adapter.path}: PEFT cannot merge it ({first_line(error)})") from error
    difference = _difference(_logits(merged, probe), wanted)
    if difference > _TOLERANCE and base.tied and adapter.adapts(EMBEDDING, HEAD):
        raise InputError(
            f"{adapter.path}: adapts one of embedding and head, which in {base.path} are one matrix "
            "(tie_word_embeddings): they would have to differ; train it on an untied base"
        )
    if not difference <= _TOLERANCE:  # so that NaN fails too
        raise TrainingError(
            f"{adapter.path}: merged into {base.path}, the logits differ by {difference:.1e} (at most "
            f"{_TOLERANCE:.0e}); nothing was written"
        )
    changed = adapter.targets(base)
    matrices = {name: t.to(base.dtype_of(name)) for name, t in merged.state_dict().items() if name in changed}
    if base.tied and HEAD in base.tensors and EMBEDDING in matrices:
        matrices[HEAD] = matrices[EMBEDDING].clone()
    return matrices, wanted, difference


def load_adapted(
    base: ModelFolder,
    adapter: AdapterFolder,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """Base plus adapter, in fp32 by default, unmerged.

    Raises:
        InputError: PEFT cannot load it, or would leave a tensor out (it only warns).
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict

    try:
        held_base = base.load(dtype or torch.float32, device)
        merged = PeftModel.from_pretrained(held_base, adapter.path).eval()
    except (OSError, ImportError, ZhuziError):
        raise
    except Exception as error:  # of PEFT, safetensors, torch or Python itself
        raise InputError(f"{adapter.path}: PEFT cannot load it ({first_line(error)}); {RESTORE}") from error
    held = set(get_peft_model_state_dict(merged, save_embedding_layers=False))
    # PEFT also saves embedding and head whole if they were adapted or resized.
    held |= {name for name in set(adapter.tensors) - held if _is_loaded(merged, adapter, name)}
    if held != set(adapter.tensors):
        name = min(held ^ set(adapter.tensors))
        raise InputError(
            f"{adapter.path}: {ADAPTER_FILES[0]} and {ADAPTER_FILES[1]} disagree about {name} (and "
            f"{len(held ^ set(adapter.tensors)) - 1} more); {RESTORE}"
        )
    return merged


def _is_loaded(merged: Any, adapter: AdapterFolder, name: str) -> bool:
    """Whether the model now has a whole matrix of the adapter, bit for bit."""
    import torch

    if not is_whole(name):
        return False
    held = merged.state_dict().get(name)
    return held is not None and torch.equal(
        held.cpu(), load_tensor(adapter.tensors[name].file, name).to(held.dtype)
    )


def _reload(folder: Path) -> Any:
    import torch

    return ModelFolder.open(folder).load(torch.float32)


def _probe(rows: int) -> torch.Tensor:
    """[2, 32] ids, the same at every call."""
    import torch

    return torch.randint(rows, (2, 32), generator=torch.Generator().manual_seed(0))


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    scale = float(theirs.abs().max())
    apart = float((ours - theirs).abs().max())
    return apart / scale if scale > 0 and math.isfinite(apart) else (0.0 if apart == 0 else math.nan)
