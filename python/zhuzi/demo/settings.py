"""What the small runs of the demo are set to.

Learning rates are far above the published ones: a model this small, trained this shortly, needs them. A
checkpoint comes every ten to twenty seconds on two cores, so that a killed demo loses no more.
"""

from __future__ import annotations

from typing import Any

SEQUENCE_LENGTH = 256  # tokens
BASE: dict[str, Any] = {"steps": 80, "learning_rate": 3e-3}
STAGES: dict[str, dict[str, Any]] = {
    "stage1": {"steps": 50, "save_every": 25, "learning_rate": 5e-3, "weight_decay": 0.01},
    "stage2": {"steps": 100, "save_every": 25, "learning_rate": 3e-3, "weight_decay": 0.01},
    "sft": {"steps": 80, "save_every": 25, "learning_rate": 1e-3, "warmup": 0.03},
}
