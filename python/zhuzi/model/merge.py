"""Merge an adapter into the 16-bit model it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from zhuzi._output import new_folder, require_free
from zhuzi.errors import InputError, MismatchError, TrainingError, ZhuziError
from zhuzi.model.folder import (
    ADAPTER_FILES,
    EMBEDDING,
    HEAD,
    RECORD,
    ModelFolder,
    digest_file,
    first_line,
    read_json,
    write_record,
)
from zhuzi.model.weights import TensorInfo, read_header

_PREFIX = "base_model.model."  # PEFT's, before each of its tensors' names
_RESTORE = "take the adapter folder from its training run again"
_TOLERANCE = 1e-4  # of the merged logits against base plus adapter, both in fp32


@dataclass(frozen=True)
class MergeReport:
    """What `merge_adapter` made. Differences are max |a - b| / max |b| over the logits of a probe."""

    out: Path
    merged: int  # matrices LoRA was added to
    replaced: int  # matrices that were trained whole
    difference: float  # merged against base plus adapter, both in fp32: the merge itself
    difference_stored: float  # the saved model against base plus adapter: with the rounding to 16 bit
    verified: bool  # whether the adapter's record proved it whole, and of this base


def merge_adapter(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    unverified: bool = False,
) -> MergeReport:
    """Add LoRA's products to the base's matrices and put the matrices trained whole in place of the base's.

    Done in fp32 on the CPU, on the stored 16-bit base (merging into a quantised one would bake its error in),
    then rounded to the base's own type. Matrices without adapter are copied to the byte. The result loads in
    plain transformers.

    Args:
        unverified: also take an adapter without zhuzi.json, if it fits: nothing proves that it was trained on
            this base. A record that is there is always checked.

    Raises:
        MismatchError: the adapter was made on another base, tokenizer or number of rows, or does not fit it,
            or has no record that tells.
        InputError: no adapter in the folder, or one that was damaged or edited.
        TrainingError: the merged logits differ by more than 1e-4: the merge is not to be trusted.
        OutputExistsError: `out` holds something and `overwrite` is not set.
    """
    adapter, out = Path(adapter), Path(out)
    inputs = (model, adapter)
    require_free(out, overwrite=overwrite, inputs=inputs)
    base = ModelFolder.open(model)
    tensors = _read_adapter(adapter)
    verified = _require_same_base(base, adapter)
    if not verified and not unverified:
        raise MismatchError(
            f"{adapter}: holds no {RECORD}, so nothing tells whether it was trained on {base.path}; if you "
            "know that it was, merge it with --unverified"
        )
    _require_fitting(base, adapter, tensors)
    probe = _probe(base.rows)

    merged = _adapted(base, adapter, tensors)
    matched = sum(".lora_A." in name for name, _ in merged.named_parameters())
    wanted = _logits(merged, probe)
    merged = merged.merge_and_unload().eval()
    difference = _difference(_logits(merged, probe), wanted)
    if not difference <= _TOLERANCE:  # so that NaN fails too
        raise TrainingError(
            f"{adapter}: merged into {base.path}, the logits differ by {difference:.1e} (at most "
            f"{_TOLERANCE:.0e}); nothing was written"
        )

    changed = _targets(base, tensors)
    matrices = {name: t.to(base.dtype) for name, t in merged.state_dict().items() if name in changed}
    del merged
    if base.tied and HEAD in base.tensors and EMBEDDING in matrices:
        matrices[HEAD] = matrices[EMBEDDING].clone()
    with new_folder(out, overwrite=overwrite, inputs=inputs) as made:
        base.copy(made, matrices)
        base.tokenizer.save(made)
        write_record(
            made,
            "merged model",
            base=base.describe(),
            adapter=str(adapter),
            tokenizer=base.tokenizer.fingerprint,
            rows=base.rows,
        )
        stored = ModelFolder.open(made).load(torch.float32)
        difference_stored = _difference(_logits(stored, probe), wanted)
    return MergeReport(
        out=out,
        merged=matched,
        replaced=sum(".lora_" not in name for name in tensors),
        difference=difference,
        difference_stored=difference_stored,
        verified=verified,
    )


def _read_adapter(adapter: Path) -> dict[str, TensorInfo]:
    settings, weights = (adapter / name for name in ADAPTER_FILES)
    for path in (settings, weights):
        if not path.is_file():
            raise InputError(f"{adapter}: holds no {path.name}; name the adapter folder of a training run")
    config = read_json(settings)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{adapter}: not a LoRA adapter; only those are merged")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if key not in config]
    if missing:  # PEFT would take its defaults, and so another adapter
        raise InputError(f"{settings}: has no {', '.join(missing)}; {_RESTORE}")
    return read_header(weights)


def _adapted(base: ModelFolder, adapter: Path, tensors: Mapping[str, TensorInfo]) -> Any:
    """Base plus adapter in fp32. PEFT only warns of tensors its config has no place for."""
    try:
        merged = PeftModel.from_pretrained(base.load(torch.float32), adapter).eval()
    except (OSError, ImportError, ZhuziError):
        raise
    except Exception as error:  # kinds of PEFT's, safetensors', torch's and Python's own
        raise InputError(f"{adapter}: PEFT cannot load it ({first_line(error)}); {_RESTORE}") from error
    held = set(get_peft_model_state_dict(merged, save_embedding_layers=False))
    if held != set(tensors):
        name = min(held ^ set(tensors))
        raise InputError(
            f"{adapter}: {ADAPTER_FILES[0]} and {ADAPTER_FILES[1]} disagree about {name} (and "
            f"{len(held ^ set(tensors)) - 1} more); {_RESTORE}"
        )
    return merged


def _require_same_base(base: ModelFolder, adapter: Path) -> bool:
    """Compare the adapter's record with the base. False if there is no record to compare."""
    if not (adapter / RECORD).is_file():
        return False
    record = read_json(adapter / RECORD)
    for name in ADAPTER_FILES:
        if not isinstance(record.get("files"), dict) or name not in record["files"]:
            raise InputError(f"{adapter / RECORD}: not the record of an adapter")
        if record["files"][name] != digest_file(adapter / name):
            raise InputError(f"{adapter / name}: damaged, or changed since it was trained; {_RESTORE}")
    try:
        made = {
            "number of rows": (record["rows"], base.rows),
            "tokenizer": (record["tokenizer"], base.tokenizer.fingerprint),
            "base model": (record["base"]["fingerprint"], base.fingerprint),
        }
    except (KeyError, TypeError):
        raise InputError(f"{adapter / RECORD}: not the record of an adapter") from None
    for what, (theirs, ours) in made.items():
        if theirs != ours:
            raise MismatchError(
                f"{adapter}: made on another {what} ({theirs}) than that of {base.path} ({ours}); "
                f"merge it into {record['base'].get('path')}"
            )
    return True


def _targets(base: ModelFolder, tensors: Mapping[str, TensorInfo]) -> set[str]:
    """The base's matrices that the adapter changes."""
    return {_target(name) for name in tensors} & set(base.tensors)


def _target(name: str) -> str:
    """The matrix that a tensor of the adapter changes: `...q_proj.lora_A.weight` -> `...q_proj.weight`."""
    return name.removeprefix(_PREFIX).replace(".lora_A.", ".").replace(".lora_B.", ".")


def _require_fitting(base: ModelFolder, adapter: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Every tensor of the adapter must have its place in the base; PEFT passes over those that do not."""
    for name, info in tensors.items():
        target = base.tensors.get(_target(name))
        if base.tied and _target(name) == HEAD:
            target = base.tensors[EMBEDDING]
        if target is None:
            raise MismatchError(
                f"{adapter}: its tensor {name} has no place in {base.path}; it is another model's"
            )
        fits = info.shape == target.shape
        if ".lora_A." in name:
            fits = info.shape[1:] == target.shape[1:]
        elif ".lora_B." in name:
            fits = info.shape[:1] == target.shape[:1]
        if not fits:
            raise MismatchError(
                f"{adapter}: its tensor {name} is {list(info.shape)}, the base's {list(target.shape)}; "
                "it was made on a model of another size, or before the vocabulary was extended"
            )


def _probe(rows: int) -> torch.Tensor:
    """[2, 32] ids, the same at every call."""
    return torch.randint(rows, (2, 32), generator=torch.Generator().manual_seed(0))


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    scale = float(theirs.abs().max())
    apart = float((ours - theirs).abs().max())
    return apart / scale if scale > 0 and math.isfinite(apart) else (0.0 if apart == 0 else math.nan)
