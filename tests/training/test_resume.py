"""A run that was stopped goes on, and ends where one that was not does, to the last bit."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stops import Stop, StopAt
from together import TORCHRUN, run, write_recipe

import zhuzi.train.stage
from zhuzi import pretrain
from zhuzi.errors import OutputExistsError, TrainingError
from zhuzi.train import TrainCallback, TrainState, checkpoint
from zhuzi.train.checkpoint import checkpoints
from zhuzi.train.interrupt import Interrupts

Recipes = Callable[..., Any]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}


def _same(a: Any, b: Any) -> None:
    assert (a.losses, a.learning_rates, a.tokens) == (b.losses, b.learning_rates, b.tokens)
    ours, theirs = _weights(a.result), _weights(b.result)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert _log(a.output) == _log(b.output)


def _log(run: Path) -> list[dict[str, Any]]:
    """What a run logged, but for its speed and memory."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    differ = {"tokens_per_second", "memory_bytes", "seconds_left", "mfu"}
    for line in lines:
        line.get("evaluation", {}).pop("seconds", None)
    return [{key: line[key] for key in line if key not in differ} for line in lines]


def test_epochs_are_steps_counted_from_the_data(
    stage1: Recipes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zhuzi.train")
    evaluate = {"every": 100, "share": 0.5}
    recipe = stage1(steps=None, epochs=1.5, evaluate=evaluate)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    said = next(line for line in caplog.messages if line.startswith("epochs: 1.5 of "))
    examples, steps = (int(n) for n in re.findall(r" (\d+) (?:sequences|steps)", said))
    assert steps == math.ceil(1.5 * examples / 4) > 5
    resumed = pretrain(recipe)
    assert (resumed.resumed_from, resumed.steps) == (3, steps)
    _same(resumed, pretrain(stage1(steps=steps, evaluate=evaluate, output=tmp_path / "in-steps")))
    with pytest.raises(
        OutputExistsError, match=r"run whose epochs \(1\.5 there, 2\.0 now\) differs; its learning"
    ):
        pretrain(stage1(steps=None, epochs=2, evaluate=evaluate))


def test_epochs_that_became_other_steps_are_refused(stage1: Recipes) -> None:
    recipe = stage1(steps=None, epochs=1, save_every=1)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(1)])
    known = recipe.output / "run.json"
    facts = json.loads(known.read_text())
    known.write_text(json.dumps({**facts, "steps": facts["steps"] + 1}))
    with pytest.raises(
        OutputExistsError,
        match=f"a run of {facts['steps'] + 1} steps, and its epochs are {facts['steps']} steps now",
    ):
        pretrain(recipe)


def test_a_run_of_a_version_with_another_order_says_what_changes(
    stage1: Recipes, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = stage1(evaluate={"every": 100, "share": 0.5})
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(4)])
    known = recipe.output / "run.json"
    facts = json.loads(known.read_text())
    del facts["order"]
    known.write_text(json.dumps(facts))
    assert pretrain(recipe).resumed_from == 3
    assert "the data come in another order, and other examples are held out" in caplog.text


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
    write_json = checkpoint.write_json

    def stop(path: Path, value: Any) -> None:
        if value["step"] == 6:
            raise Stop
        write_json(path, value)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "write_json", stop)
        pretrain(recipe)
    folder = recipe.output / "checkpoints"
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-3"]
    assert (folder / ".checkpoint-6.partial" / "optimizer.pt").is_file()
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 3
    _same(resumed, whole)
    assert not list(folder.glob(".*"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _without_digests(path: Path, damage: Callable[[Path], object]) -> None:
    """As a version that did not write them down left it."""
    state = path.with_name("state.json")
    told = json.loads(state.read_text())
    del told["sha256"]
    state.write_text(json.dumps(told))
    damage(path)


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("trainable.safetensors", _flip, "is not what was written"),
        ("optimizer.pt", _flip, "is not what was written"),
        ("random-0.pt", Path.unlink, "is missing"),
        ("state.json", Path.unlink, "is missing"),
        ("state.json", lambda path: path.write_text('{"step"'), "is not what was written"),
        (
            "optimizer.pt",
            lambda path: _without_digests(path, lambda p: os.truncate(p, 1000)),
            "cannot be read",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    stage2: Recipes, name: str, damage: Callable[[Path], object], why: str
) -> None:
    recipe = stage2()
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    only = recipe.output / "checkpoints" / "checkpoint-3"
    again = f"{only}: damaged: {name} {why}; remove this folder, and the same command starts from the begin"
    damage(only / name)
    with pytest.raises(TrainingError, match=re.escape(again)):
        pretrain(recipe)
    shutil.copytree(only, only.with_name("checkpoint-2"))
    with pytest.raises(TrainingError, match=r"the same command goes on from checkpoint-2$"):
        pretrain(recipe)
    shutil.rmtree(only)
    shutil.rmtree(only.with_name("checkpoint-2"))
    assert pretrain(recipe).resumed_from is None


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

    class Limit(TrainCallback):
        """No file may grow beyond some bytes, as on a disk that is almost full, from a step on."""

        def on_step_end(self, state: TrainState) -> None:
            if state.step == 5:
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
from zhuzi import pretrain
from zhuzi.train import checkpoint
from zhuzi.train.recipe import PretrainRecipe

original = checkpoint.write_json

def kill(path, value):
    original(path, value)
    if value["step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.write_json = kill
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


SIGNALLED = """
import json, os, signal, sys
from zhuzi import pretrain
from zhuzi.errors import TrainingInterrupted
from zhuzi.train import TrainCallback
from zhuzi.train.recipe import PretrainRecipe

class Kill(TrainCallback):
    def on_step_begin(self, state):
        if state.step == 4:
            for _ in range(int(sys.argv[3])):
                os.kill(os.getpid(), signal.Signals[sys.argv[2]])

try:
    pretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])), callbacks=[Kill()])
except TrainingInterrupted as stopped:
    print(stopped)
    sys.exit(75)
"""


def _signalled(recipe: Any, name: str, times: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SIGNALLED, recipe.model_dump_json(), name, str(times)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGUSR1")), "SIGTERM"]
)
def test_a_signal_saves_a_checkpoint_after_the_step(stage2: Recipes, tmp_path: Path, name: str) -> None:
    recipe = stage2(output=tmp_path / "stopped")
    ended = _signalled(recipe, name, 1)
    assert ended.returncode == 75, ended.stderr
    assert f"{name}: stopped after step 5 of 6" in ended.stdout
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 5
    _same(resumed, pretrain(stage2(output=tmp_path / "whole")))


def test_a_second_signal_ends_at_once(stage2: Recipes, tmp_path: Path) -> None:
    recipe = stage2(output=tmp_path / "stopped")
    assert _signalled(recipe, "SIGTERM", 2).returncode == -signal.SIGTERM
    assert pretrain(recipe).resumed_from == 3


def test_what_does_not_change_the_result_may_change_between_starts(
    stage2: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = stage2(output=tmp_path / "stopped", micro_batch_size=2)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(4)])
    monkeypatch.chdir(recipe.corpus[0].parent)
    changed = {
        "log_every": 1,
        "save_every": 2,
        "keep_checkpoints": 1,
        "micro_batch_size": 4,
        "gradient_checkpointing": True,
    }
    other = stage2(output=tmp_path / "stopped", corpus=Path(recipe.corpus[0].name), **changed)
    with caplog.at_level("INFO", "zhuzi.train"):
        resumed = pretrain(other)
    assert "micro_batch_size is 4, was 2: dropout and rounding differ" in caplog.text
    assert resumed.resumed_from == 3 and [step for step, _ in resumed.losses] == [2, 4, 5, 6]
    whole = pretrain(stage2(output=tmp_path / "whole"))
    assert dict(resumed.losses)[6] == pytest.approx(dict(whole.losses)[6], rel=0.05)
    with pytest.raises(OutputExistsError, match="seed"):
        pretrain(stage2(output=tmp_path / "stopped", seed=7))


def _pretrain_by_two(recipe: Any) -> str:
    """What two processes say that train together."""
    ended = run([*TORCHRUN, "-m", "zhuzi", "pretrain", write_recipe(recipe)])
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("vocabulary", [pytest.param("full", marks=pytest.mark.slow), "new-rows"])
def test_two_processes_train_as_one_does(stage2: Recipes, tmp_path: Path, vocabulary: str) -> None:
    lora = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    settings = {"vocabulary": vocabulary, "lora": lora, "log_every": 1, "micro_batch_size": 1}
    one = pretrain(stage2(output=tmp_path / "one", **settings))
    recipe = stage2(output=tmp_path / "two", **settings)
    _pretrain_by_two(recipe)
    logs = [_log(one.output), _log(recipe.output)]
    for key in ("loss", "gradient_norm"):
        ours, theirs = ([line[key] for line in log] for log in logs)
        assert theirs == pytest.approx(ours, rel=1e-4), key
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-5)


def test_no_process_goes_on_before_a_checkpoint_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ended after the last step of a save would have torchrun kill the one that still renames."""
    replace, both = checkpoint.replace_folder, threading.Barrier(2)

    def slowly(made: Path, out: Path) -> None:
        time.sleep(0.5)
        replace(made, out)

    monkeypatch.setattr(checkpoint, "replace_folder", slowly)
    weights = {"weight": torch.zeros(3)}

    def save(process: int) -> bool:
        saved = checkpoint.save(
            tmp_path, TrainState(steps=1), weights, {"parameters": {}, "scaler": None}, process=process,
            wait=lambda: both.wait() and None, keep=1,
        )  # fmt: skip
        return saved.is_dir()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(save, (0, 1))) == [True, True]


def test_a_signal_amid_a_line_of_output_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def reentrant(line: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("zhuzi.train.interrupt.tell", reentrant)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupts.received == "SIGUSR1"


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two(stage2: Recipes, tmp_path: Path) -> None:
    """The same examples in the same steps; sums over processes are rounded otherwise, no more."""
    lora = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
    settings = {"lora": lora, "log_every": 1, "micro_batch_size": 1}
    whole = pretrain(stage2(output=tmp_path / "whole", **settings))
    recipe = stage2(output=tmp_path / "stopped", **settings)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(4)])
    said = _pretrain_by_two(recipe)
    assert "written by 1 process, and resumed by 2: the examples of each step stay" in said
    resumed = pretrain(recipe)  # finished: its report
    assert resumed.resumed_from == 3 and resumed.tokens == whole.tokens
    assert [loss for _, loss in resumed.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-5)
