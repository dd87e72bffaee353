"""How many tokens a model can see at once: its positions, and scaled rotary embeddings (RoPE) for more.

Scaling is a setting of config.json, and no tensor changes. What reads the folder (training, PEFT,
transformers, vLLM, llama.cpp) computes the same angles, so an adapter needs nothing but its base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhuzi.errors import InputError

#: linear: Chen et al. 2023, arXiv 2306.15595; dynamic: NTK-aware, by the length at hand; yarn: Peng et al.
#: 2023, arXiv 2309.00071; llama3: as in Llama 3.1.
KINDS = ("linear", "dynamic", "yarn", "llama3")

# Their `max_position_embeddings` counts the new positions, and another key the old ones.
_COUNT_ALL = ("yarn", "llama3")
_BEFORE = "original_max_position_embeddings"


@dataclass(frozen=True)
class Rope:
    """A kind of scaling, and by how much it multiplies the positions."""

    kind: str
    factor: float

    @classmethod
    def parse(cls, text: str) -> Rope:
        """`linear:4`, as the option is written; `ValueError` for anything else."""
        kind, _, number = text.partition(":")
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if kind not in KINDS or not 1 < factor < math.inf:
            raise ValueError(
                f"rope: {text!r}; want a kind ({', '.join(KINDS)}) and a factor above 1, as in linear:4"
            )
        return cls(kind, factor)

    def __str__(self) -> str:
        return f"{self.kind}:{self.factor:g}"

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of config.json that give a model this scaling instead of the one it has, if any.

        The factor counts from the positions before any scaling. A file of transformers 4 (`rope_scaling`)
        stays one; those of transformers 5 have `rope_parameters`.

        Raises:
            InputError: the model does not say its positions, or scales layers differently.
        """
        before = unscaled_positions(config)
        if before is None:
            raise InputError(
                "config.json has no max_position_embeddings, from which RoPE is scaled; write it there"
            )
        held = config.get("rope_parameters")
        if isinstance(held, Mapping) and any(isinstance(value, Mapping) for value in held.values()):
            raise InputError("config.json has a RoPE for each kind of layer; these are not scaled here")
        scaled: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind in _COUNT_ALL:
            scaled[_BEFORE] = before
        if self.kind == "llama3":
            scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        most = round(before * self.factor) if self.kind in _COUNT_ALL else before
        changed: dict[str, Any] = {"max_position_embeddings": most}
        if isinstance(held, Mapping):
            kept = {key: held[key] for key in ("rope_theta", "partial_rotary_factor") if key in held}
            return {**changed, "rope_parameters": {**kept, **scaled}}
        # Before 4.43 transformers knew `type` alone.
        return {**changed, "rope_scaling": {"type": self.kind, **scaled}}


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a model's angles, in one form for both spellings of config.json; for records."""
    held = _held(config)
    theta = held.get("rope_theta", config.get("rope_theta"))
    found = {
        **{key: value for key, value in held.items() if key != "type" and value is not None},
        "rope_type": _kind(held),
        "rope_theta": 10000.0 if theta is None else theta,
    }
    if found["rope_type"] == "dynamic":  # begins to scale there
        found["max_position_embeddings"] = config.get("max_position_embeddings")
    if found["rope_type"] in _COUNT_ALL:
        found.setdefault(_BEFORE, config.get("max_position_embeddings"))
    return dict(sorted(found.items()))


def in_words(rope: Mapping[str, Any]) -> str:
    """What `rope_of` gives, in a message: `linear:4 (rope_theta 10000)`."""
    kind, factor = rope.get("rope_type", "default"), rope.get("factor")
    name = kind if factor is None else f"{kind}:{_number(factor)}"
    rest = [f"{k} {_number(v)}" for k, v in rope.items() if k not in ("rope_type", "factor")]
    return f"{name} ({', '.join(rest)})"


def positions_of(model: Any) -> int | None:
    """The positions of a model of transformers; None if it does not say."""
    config = getattr(model, "config", None)
    return None if config is None else positions(config.to_dict())


def unscaled_positions(config: Mapping[str, Any]) -> int | None:
    """The positions of a model without its scaling; None if it does not say."""
    held = _held(config)
    before = held.get(_BEFORE) if _kind(held) in (*_COUNT_ALL, "longrope") else None
    if before is None:
        before = config.get("max_position_embeddings")
    return before if isinstance(before, int) and before > 0 else None


def positions(config: Mapping[str, Any]) -> int | None:
    """The positions of a model by its config.json, scaling included; None if it does not say.

    With `linear` and `dynamic`, `max_position_embeddings` is the length before scaling; with `yarn` maybe.
    """
    most = config.get("max_position_embeddings")
    if not isinstance(most, int) or most < 1:
        return None
    held = _held(config)
    before = {"linear": most, "dynamic": most, "yarn": held.get(_BEFORE)}.get(_kind(held))
    factor = held.get("factor")
    if isinstance(before, int) and isinstance(factor, int | float):
        return max(most, int(before * factor))
    return most


def _number(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _held(config: Mapping[str, Any]) -> Mapping[str, Any]:
    held = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return held if isinstance(held, Mapping) else {}


def _kind(held: Mapping[str, Any]) -> str:
    return str(held.get("rope_type", held.get("type", "default")))
