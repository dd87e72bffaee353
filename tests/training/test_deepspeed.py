"""ZeRO through DeepSpeed: two processes train as one does, and their checkpoints are those of any run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from together import TORCHRUN, run, write_recipe

from zhuzi import pretrain
from zhuzi.errors import RecipeError
from zhuzi.train import TrainCallback, TrainState
from zhuzi.train.checkpoint import checkpoints
from zhuzi.train.recipe import PretrainRecipe

Recipes = Callable[..., Any]
LORA = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}

installed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install 'zhuzi[deepspeed]'"
)

# What a process of the tests does: train, and write down the gradients of step 2, whole and not clipped.
SCRIPT = """
import json, os, sys
import torch
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
try:
    from deepspeed.utils import safe_get_full_grad
    keep(ZeroProcesses, safe_get_full_grad)
except ImportError:
    pass

class Stop(TrainCallback):
    def on_step_begin(self, state):
        if len(sys.argv) > 3 and state.step == int(sys.argv[3]):
            os._exit(3)

pretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])), callbacks=[Stop()], progress=False)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return str(path)


def _figures(recipe: PretrainRecipe) -> tuple[list[float], list[float]]:
    lines = [json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines], [line["gradient_norm"] for line in lines]


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"base_bits": 16}, {"base_bits": 8, "vocabulary": "new-rows", "max_grad_norm": 0.1}], ids=str
)
def test_zero_2_trains_as_one_process_does(
    stage2: Recipes, tmp_path: Path, script: str, settings: dict[str, Any]
) -> None:
    """Without dropout, in fp32: losses, and gradients before they are clipped, of one with twice the batch."""
    common = {"lora": LORA, "log_every": 1, "steps": 4, "save_every": 2, **settings}
    alone = stage2(output=tmp_path / "alone", **common)
    ended = run([script, alone.model_dump_json(), str(tmp_path / "alone.pt")])
    assert ended.returncode == 0, ended.stderr
    recipe = stage2(output=tmp_path / "zero", deepspeed="zero-2", **{**common, "micro_batch_size": 1})
    words = [*TORCHRUN, script, recipe.model_dump_json(), str(tmp_path / "zero.pt")]
    ended = run(words)
    assert ended.returncode == 0, ended.stderr
    for ours, theirs in zip(_figures(recipe), _figures(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = torch.load(tmp_path / "zero.pt"), torch.load(tmp_path / "alone.pt")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
