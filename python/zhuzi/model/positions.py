"""How many tokens a model can see at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def positions_of(model: Any) -> int | None:
    """The positions of a model of transformers; None if it does not say."""
    config = getattr(model, "config", None)
    return None if config is None else positions(config.to_dict())


def positions(config: Mapping[str, Any]) -> int | None:
    """The positions of a model by its config.json; None if it does not say.

    Scaled rotary embeddings reach beyond `max_position_embeddings`, which for the
    kinds below is the length before scaling (Chen et al. 2306.15595).
    """
    most = config.get("max_position_embeddings")
    if not isinstance(most, int) or most < 1:
        return None
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        return most
    factor = scaling.get("factor")
    if scaling.get("rope_type", scaling.get("type")) in ("linear", "dynamic") and isinstance(
        factor, int | float
    ):
        return max(most, int(most * factor))
    return most
