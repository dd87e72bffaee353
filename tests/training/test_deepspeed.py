"""ZeRO through DeepSpeed: two processes train as one does, and their checkpoints are those of any run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_together import LORA, close, figures
from together import TORCHRUN, run

from zhuzi import pretrain

Recipes = Callable[..., Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(
        3600
    ),  # four starts of torch and DeepSpeed, of which each takes a minute on a busy machine
    pytest.mark.skipif(
        find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install 'zhuzi[deepspeed]'"
    ),
]

# Trains; writes down the whole gradients of step 2, before they are clipped; ends at a step if it is given.
SCRIPT = """
import json, os, sys
import torch
from deepspeed.utils import safe_get_full_grad
from zhuzi import pretrain
from zhuzi.train import TrainCallback
from zhuzi.train.processes import Processes, ZeroProcesses
from zhuzi.train.recipe import PretrainRecipe

def keep(kind, gradient):
    step = kind.step

    def watched(self, check):
        self.done = getattr(self, "done", 0) + 1
        if self.done == 2:
            held = {name: gradient(p).cpu().clone() for name, p in self.named}
            if self.process == 0:
                torch.save(held, sys.argv[2])
        return step(self, check)

    kind.step = watched

keep(Processes, lambda p: p.grad)
keep(ZeroProcesses, safe_get_full_grad)

class Stop(TrainCallback):
    def on_step_begin(self, state):
        if len(sys.argv) > 3 and state.step == int(sys.argv[3]):
            os._exit(3)

pretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])), callbacks=[Stop()], progress=False)
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"base_bits": 16, "deepspeed": "zero-2", "embedding_learning_rate": 1e-3},
        {"base_bits": 8, "deepspeed": "zero-2", "vocabulary": "new-rows", "max_grad_norm": 0.1},
        {"base_bits": 16, "deepspeed": "zero-1"},
    ],
    ids=str,
)
def test_it_trains_stops_and_goes_on_as_one_process_does(
    stage2: Recipes, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Without dropout, in fp32: losses, and gradients that are not clipped, of one with twice the batch."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def train(name: str, launcher: list[str], *more: str, **changes: Any) -> tuple[Any, int]:
        recipe = stage2(output=tmp_path / name, lora=LORA, log_every=1, **{**settings, **changes})
        ended = run([*launcher, str(script), recipe.model_dump_json(), str(tmp_path / f"{name}.pt"), *more])
        assert more or ended.returncode == 0, ended.stderr
        return recipe, ended.returncode

    alone, _ = train("alone", [], deepspeed=None)
    whole, _ = train("whole", TORCHRUN, micro_batch_size=1)
    assert close(figures(whole.output), figures(alone.output))
    ours, theirs = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "alone.pt")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))

    stopped, code = train("stopped", TORCHRUN, "5", micro_batch_size=1)
    assert code != 0 and not (stopped.output / "report.json").exists()
    train("stopped", TORCHRUN, micro_batch_size=1)
    assert figures(stopped.output) == figures(whole.output)  # to the last bit
    # Its checkpoints hold all states whole: one process without DeepSpeed goes on too.
    (stopped.output / "checkpoints" / "checkpoint-6").rename(stopped.output / "checkpoints" / ".old")
    (stopped.output / "report.json").unlink()
    report = pretrain(
        stage2(output=stopped.output, lora=LORA, log_every=1, **{**settings, "deepspeed": None})
    )
    assert report.resumed_from == 3 and close(figures(report.output), figures(alone.output))
