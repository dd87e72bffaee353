"""What an adapter folder contains, and whether it fits a model. Nothing here needs torch or PEFT."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zhuzi.errors import InputError, MismatchError
from zhuzi.model.folder import ADAPTER_FILES, EMBEDDING, HEAD, ModelFolder, read_json
from zhuzi.model.positions import in_words, rope_of
from zhuzi.model.weights import TensorInfo, read_header
from zhuzi.record.disk import sha256
from zhuzi.record.provenance import CONVERTED_ADAPTER, RECORD, read_record
from zhuzi.record.remembered import remembered_sha256

RESTORE = "take the adapter folder from its training run again"

_PREFIX = "base_model.model."  # PEFT puts it before the name of each tensor
# What PEFT writes in place of a matrix's own `.weight`: the factors of LoRA on a linear layer and on an
# embedding, and DoRA's magnitudes. `base_layer` is the matrix itself, saved whole with its factors.
_FACTOR = re.compile(
    r"\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
)
# Rows of a matrix that were trained alone, in the order of the settings' `trainable_token_indices`.
_ROWS = ".token_adapter.trainable_tokens_delta"
_PICKLE = "adapter_model.bin"
_FINGERPRINT = re.compile("[0-9a-f]{64}")  # of which messages show the first 12 digits


@dataclass(frozen=True)
class AdapterFolder:
    """A LoRA adapter on disk: its settings, its tensors, and the record of what it was trained on, if any."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    record: dict[str, Any] | None

    @classmethod
    def open(cls, path: Path) -> AdapterFolder:
        """Read the settings and the headers.

        Raises:
            InputError: no adapter in the folder, one that is not LoRA, or a damaged one.
        """
        settings, weights = (path / name for name in ADAPTER_FILES)
        if (path / _PICKLE).is_file() and not weights.is_file():
            raise InputError(
                f"{path}: holds only {_PICKLE}, a pickle that runs code when it is loaded; convert it, which "
                f"runs none: `zhuzi model convert --model {path} --out NEW`"
            )
        for file in (settings, weights):
            if not file.is_file():
                raise InputError(f"{path}: holds no {file.name}; name the adapter folder of a training run")
        config = read_json(settings)
        if config.get("peft_type") != "LORA":
            raise InputError(f"{path}: not a LoRA adapter; only those are merged")
        missing = [key for key in ("r", "lora_alpha", "target_modules") if key not in config]
        if missing:  # PEFT would take its defaults, and so another adapter
            raise InputError(f"{settings}: has no {', '.join(missing)}; {RESTORE}")
        record = read_record(path)
        if record is not None and record.get("kind") == CONVERTED_ADAPTER:
            record = None  # it tells where the files came from, not what they were trained on
        return cls(path, config, read_header(weights), record)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the file of its tensors; a large file is read once."""
        return remembered_sha256(self.path / ADAPTER_FILES[1])

    def require_fitting(self, base: ModelFolder) -> None:
        """Raise `MismatchError` if a tensor has no place in the base; PEFT would ignore it.

        Reads headers only. The record's rows and tokenizer are compared first: they tell more than shapes.
        """
        if self.record is not None:
            self._require_equal("number of rows", self._recorded("rows"), base.rows, base)
            ours = base.tokenizer.fingerprint
            self._require_equal("tokenizer", self._recorded("tokenizer"), ours, base)
        for name, info in self.tensors.items():
            target = base.tensors.get(target_of(name))
            if base.tied and target_of(name) == HEAD:
                target = base.tensors[EMBEDDING]
            if target is None:
                raise MismatchError(
                    f"{self.path}: its tensor {name} has no place in {base.path}: it is another model's, or "
                    "of a kind that is not merged"
                )
            if _fits(name, info.shape, target.shape) and self._indices_fit(
                name, info.shape[0], target.shape[0]
            ):
                continue
            why = "it was made on a model of another size, or before the vocabulary was extended"
            if target_of(name) in (EMBEDDING, HEAD) and info.shape[1:] == target.shape[1:]:
                why = "give the base with as many rows (see `zhuzi model extend`)"
            raise MismatchError(
                f"{self.path}: its tensor {name} is {list(info.shape)}, the base's "
                f"{list(target.shape)}; {why}"
            )

    def _indices_fit(self, name: str, count: int, rows: int) -> bool:
        """Whether the settings say for each trained row of a matrix which one it is, and the base has it."""
        if not name.endswith(_ROWS):
            return True
        known = self.config.get("trainable_token_indices")
        module = target_of(name).removesuffix(".weight").rpartition(".")[2]
        ids = known.get(module) if isinstance(known, dict) else known
        if not isinstance(ids, list) or not all(isinstance(id, int) for id in ids):
            return False
        return len(ids) == count == len(set(ids)) and min(ids) >= 0 and max(ids) < rows

    def require_whole(self) -> None:
        """Compare both files with the record's digests; reads every byte, of a large file once.

        Raises:
            InputError: a file was changed since training.
        """
        if self.record is None:
            return
        found = dict(zip(ADAPTER_FILES, (sha256(self.path / ADAPTER_FILES[0]), self.digest), strict=True))
        for name, digest in found.items():
            if self._recorded("files", name) != digest:
                raise InputError(f"{self.path / name}: damaged, or changed since it was trained; {RESTORE}")

    def require_made_on(self, base: ModelFolder, *, called: str | None = None) -> None:
        """Raise `MismatchError` if the record names another base, or the base already contains the adapter.

        Reads every byte of the base's weights, of large files once. The message names the base by its folder,
        or as `called`.
        """
        if base.has_merged(self.digest):
            raise MismatchError(
                f"{self.path}: already merged into {base.path}, whose record names it; to merge it again "
                "would add it twice"
            )
        if self.record is None:
            return
        known = self._recorded("base")
        if isinstance(known, dict) and isinstance(known.get("rope"), dict):  # missing in earlier records
            ours = rope_of(base.config)
            if known["rope"] != ours:
                self._require_equal("RoPE", in_words(known["rope"]), in_words(ours), base, called)
        theirs, digest = self._recorded("base", "fingerprint"), base.fingerprint
        self._require_equal("base model", theirs, digest, base, called)

    def require_next(self, base: ModelFolder, before: Sequence[AdapterFolder]) -> None:
        """Raise `MismatchError` if the record shows that this was not made on the base with others merged.

        Told from records, before anything is merged; what they do not tell, `require_made_on` finds later.

        Args:
            before: the adapters that are merged before this one, in order.
        """
        if self.record is None:
            return
        known = self._recorded("base")
        made_on = known.get("fingerprint") if isinstance(known, dict) else None
        merged = known.get("merged_from") if isinstance(known, dict) else None
        fits = made_on != base.fingerprint  # it is no more after the others
        if isinstance(merged, dict) and isinstance(merged.get("adapters"), list):
            theirs, ours = merged["adapters"], [one.digest for one in before]
            shared = min(len(theirs), len(ours))
            fits = fits and theirs[len(theirs) - shared :] == ours[len(ours) - shared :]
            if len(theirs) == len(ours):
                fits = fits and merged.get("base") == base.fingerprint
        if not fits:
            names = ", ".join(str(one.path) for one in before)
            raise MismatchError(
                f"{self.path}: made on another base model than that of {base.path} with {names} merged into "
                f"it; give the adapters in the order in which they were trained (it was trained on "
                f"{self._recorded('base', 'path')})"
            )

    def _require_equal(
        self, what: str, theirs: object, ours: object, base: ModelFolder, called: str | None = None
    ) -> None:
        if theirs != ours:
            shown = [told[:12] if _FINGERPRINT.fullmatch(told) else told for told in map(str, (theirs, ours))]
            raise MismatchError(
                f"{self.path}: made on another {what} ({shown[0]}) than that of {called or base.path} "
                f"({shown[1]}); merge it into {self._recorded('base', 'path')}"
            )

    def _recorded(self, *keys: str) -> Any:
        value: Any = self.record
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise InputError(f"{self.path / RECORD}: not the record of an adapter")
            value = value[key]
        return value

    def adapts(self, *matrices: str) -> bool:
        """Whether it adds to one of these matrices (rather than replacing it)."""
        return any(target_of(name) in matrices and not is_whole(name) for name in self.tensors)

    def targets(self, base: ModelFolder) -> set[str]:
        """The base's matrices that the adapter changes."""
        return {target_of(name) for name in self.tensors} & set(base.tensors)


def target_of(name: str) -> str:
    """The matrix that a tensor of an adapter changes: `...q_proj.lora_A.weight` -> `...q_proj.weight`."""
    name = name.removeprefix(_PREFIX).replace(_ROWS, ".weight")
    return _FACTOR.sub(".weight", name).replace(".base_layer.", ".")


def is_whole(name: str) -> bool:
    """True if a tensor of an adapter replaces a matrix, or some of its rows, instead of being added."""
    return _FACTOR.search(name) is None


def _fits(name: str, shape: tuple[int, ...], matrix: tuple[int, ...]) -> bool:
    if name.endswith(_ROWS):
        return len(shape) == 2 and shape[0] <= matrix[0] and shape[1:] == matrix[1:]
    factor = _FACTOR.search(name)
    if factor is None or len(matrix) != 2:
        return shape == matrix
    if factor[1] == "lora_magnitude_vector":  # of columns or rows, depending on PEFT's version
        return math.prod(shape) in matrix
    if len(shape) != 2:
        return False
    # [rank, in] and [out, rank] of a linear layer; [rank, ids] and [size, rank] of an embedding.
    return {
        "lora_A.weight": shape[1] == matrix[1],
        "lora_B.weight": shape[0] == matrix[0],
        "lora_embedding_A": shape[1] == matrix[0],
        "lora_embedding_B": shape[0] == matrix[1],
    }[factor[1]]
