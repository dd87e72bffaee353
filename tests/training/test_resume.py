"""A run that was stopped goes on, and ends where one that was not does, to the last bit."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import zhuzi.train.stage
from zhuzi import pretrain
from zhuzi.train.trainer import StageTrainer, checkpoints

Recipes = Callable[..., Any]


class Stop(Exception):  # noqa: N818  # nothing went wrong
    """What a test raises in the middle."""


class StopAt(TrainerCallback):
    """Raises after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Stop


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}


def _same(a: Any, b: Any) -> None:
    assert (a.losses, a.learning_rates, a.tokens) == (b.losses, b.learning_rates, b.tokens)
    ours, theirs = _weights(a.result), _weights(b.result)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert (a.output / "log.jsonl").read_text() == (b.output / "log.jsonl").read_text()


@pytest.mark.parametrize(("stage", "stop"), [("stage1", 5), ("stage2", 5), ("stage2", 2)])
def test_resumed_run_equals_uninterrupted(
    request: pytest.FixtureRequest, tmp_path: Path, stage: str, stop: int
) -> None:
    """Stage 2 has dropout, so the random state must come back too; 9 steps are more than an epoch."""
    make = request.getfixturevalue(stage)
    whole = pretrain(make(steps=9, output=tmp_path / "whole", verify_frozen=True))
    recipe = make(steps=9, output=tmp_path / "stopped", verify_frozen=True)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(stop)])
    resumed = pretrain(recipe)
    assert resumed.resumed_from == (3 if stop > 3 else None)
    _same(resumed, whole)
    assert [path.name for path in checkpoints(recipe.output / "checkpoints")] == [
        "checkpoint-6",
        "checkpoint-9",
    ]


def test_stopped_while_saving(stage1: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half-written checkpoint does not count; the one before it does."""
    whole = pretrain(stage1(output=tmp_path / "whole"))
    recipe = stage1(output=tmp_path / "stopped")
    save_rng_state = StageTrainer._save_rng_state

    def stop(self: Any, output_dir: str) -> None:
        if self.state.global_step == 6:
            raise Stop
        save_rng_state(self, output_dir)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(StageTrainer, "_save_rng_state", stop)
        pretrain(recipe)
    folder = recipe.output / "checkpoints"
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-3"]
    assert (folder / ".checkpoint-6.partial" / "checkpoint-6" / "optimizer.pt").is_file()
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 3
    _same(resumed, whole)
    assert not list(folder.glob(".*"))


def test_stopped_while_saving_the_result(
    stage1: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is done and in the last checkpoint: none is trained twice."""
    whole = pretrain(stage1(output=tmp_path / "whole"))
    recipe = stage1(output=tmp_path / "stopped")

    def stop(*args: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(zhuzi.train.stage, "_save", stop)
        pretrain(recipe)
    resumed = pretrain(recipe)
    assert (resumed.resumed_from, resumed.steps) == (6, 6)
    _same(resumed, whole)


def test_a_full_disk_while_saving(stage1: Recipes, tmp_path: Path) -> None:
    """It is named, with path and mend; what was saved before is gone on with."""
    whole = pretrain(stage1(output=tmp_path / "whole"))
    recipe = stage1(output=tmp_path / "stopped")

    class Limit(TrainerCallback):
        """No file may grow beyond some bytes, as on a disk that is almost full, from a step on."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="limit of 60,000 bytes") as raised:
            pretrain(recipe, callbacks=[Limit()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = recipe.output / "checkpoints"
    assert raised.value.filename == str(folder / "checkpoint-6")
    assert [path.name for path in folder.iterdir()] == ["checkpoint-3"]
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 3
    _same(resumed, whole)


def test_no_room_is_said_before_the_work(stage1: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhuzi.record.disk.free_bytes", lambda path: 1000)
    with pytest.raises(OSError, match=r"needs [0-9,]+ bytes, and 1,000 are free") as raised:
        pretrain(stage1())
    assert raised.value.filename == str(stage1().output) and not stage1().output.exists()


KILLED = """
import json, os, signal, sys
from pathlib import Path
import zhuzi.train.trainer as trainer
from zhuzi import pretrain
from zhuzi.train.recipe import PretrainRecipe

original = trainer.StageTrainer._save_optimizer_and_scheduler

def kill(self, output_dir):
    original(self, output_dir)
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)

trainer.StageTrainer._save_optimizer_and_scheduler = kill
pretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])))
"""


def test_killed_while_saving(stage2: Recipes, tmp_path: Path) -> None:
    """SIGKILL in another process, amid its second checkpoint."""
    recipe = stage2(output=tmp_path / "killed")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, recipe.model_dump_json()], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 3
    _same(resumed, pretrain(stage2(output=tmp_path / "whole")))
