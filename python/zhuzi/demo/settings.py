"""The settings of the demo's small runs.

Learning rates are far above the published ones, as so small a model needs when trained so briefly. On two
cores a checkpoint is written every ten to twenty seconds: a killed demo loses no more than that.
"""

from __future__ import annotations

from typing import Any

NEW_IDS = 9984  # pieces and [PAD]; with the 32,000 of the base a multiple of 64
SEQUENCE_LENGTH = 256  # tokens
BASE: dict[str, Any] = {"steps": 80, "learning_rate": 3e-3}
STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"steps": 50, "save_every": 25, "learning_rate": 5e-3, "weight_decay": 0.01},
    "stage2": {"steps": 80, "save_every": 20, "learning_rate": 3e-3, "weight_decay": 0.01},
    "sft": {"steps": 120, "save_every": 40, "learning_rate": 1.5e-3, "warmup": 0.03},
}
