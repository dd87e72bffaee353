"""Several stages from one file: each trains the result of the one before, and goes on after a kill."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from zhuzi import pretrain
from zhuzi.cli import cli
from zhuzi.errors import OutputExistsError, RecipeError
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState, load_recipe, load_stages
from zhuzi.train.plan import plan_stages


@pytest.fixture
def file(model: Path, corpus: Path, tmp_path: Path) -> Path:
    """Stage 1 and 2 of the tiny model."""
    settings: dict[str, Any] = {
        "task": "pretrain", "model": str(model), "corpus": str(corpus), "output": str(tmp_path / "run"),
        "sequence_length": 16, "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "log_every": 1,
        "save_every": 2,
        "stages": [
            {"name": "first", "modules_to_save": ["embed_tokens"]},
            {"name": "second", "lora": {"rank": 4, "targets": ["q_proj", "v_proj"]}, "steps": 6},
        ],
    }  # fmt: skip
    return write(tmp_path / "stages.yaml", settings)


def write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def changed(file: Path, **changes: Any) -> Path:
    return write(file.with_name("changed.yaml"), {**yaml.safe_load(file.read_text()), **changes})


class StopAt(TrainCallback):
    """Raises before a step of the run that has as many steps."""

    def __init__(self, step: int, steps: int) -> None:
        self.step, self.steps = step, steps

    def on_step_begin(self, state: TrainState) -> None:
        if (state.step, state.steps) == (self.step, self.steps):
            raise KeyboardInterrupt


def test_the_second_stage_trains_the_result_of_the_first(file: Path, tmp_path: Path) -> None:
    report = pretrain(file)
    first, second = load_stages(file)
    assert second.recipe.model == str(tmp_path / "run" / "first" / "model")
    assert report.result == tmp_path / "run" / "second" / "adapter"
    record = json.loads((report.result / "zhuzi.json").read_bytes())
    assert record["base"]["fingerprint"] == ModelFolder.open(first.result).fingerprint
    # The same as two files, one after the other.
    alone = pretrain(second.recipe.model_copy(update={"output": tmp_path / "alone"}))
    assert alone.losses == report.losses


def test_a_trained_model_is_gone_before_the_next_is_loaded(file: Path) -> None:
    """It refers to itself; two at a time would not fit a GPU."""
    held: list[weakref.ref[Any]] = []

    class Watch(TrainCallback):
        def on_train_begin(self, state: TrainState) -> None:
            assert all(weight() is None for weight in held)
            held.extend(weakref.ref(weight) for weight in state.model.parameters())

    gc.disable()
    try:
        pretrain(file, callbacks=[Watch()])
        assert held
    finally:
        gc.enable()


def test_it_goes_on_between_and_within_stages(file: Path, tmp_path: Path) -> None:
    whole = pretrain(file)
    shutil.move(tmp_path / "run", tmp_path / "whole")
    for steps in (4, 6):
        with pytest.raises(KeyboardInterrupt):
            pretrain(file, callbacks=[StopAt(3, steps)])
        assert (tmp_path / "run" / "first" / "report.json").is_file() == (steps == 6)
    again = pretrain(file)
    assert again.resumed_from == 2 and again.losses == whole.losses
    assert pretrain(file).losses == whole.losses  # nothing to do
    with pytest.raises(OutputExistsError, match="learning_rate"):
        pretrain(file, settings=["stages.second.learning_rate=0.1"])
    assert pretrain(file, settings=["stages.second.learning_rate=0.1"], overwrite=True).losses != whole.losses


def test_an_adapter_is_merged_for_the_next_stage(file: Path, tmp_path: Path) -> None:
    lora = {"rank": 2, "targets": ["q_proj"]}
    stages = [{"lora": lora}, {"lora": lora, "base_bits": 8}]
    report = pretrain(changed(file, stages=stages, steps=2))
    merged = tmp_path / "run" / "stage1-merged"
    assert (
        ModelFolder.open(merged).describe() == json.loads((report.result / "zhuzi.json").read_bytes())["base"]
    )
    assert pretrain(changed(file, stages=stages, steps=2)).losses == report.losses


def test_settings_are_for_all_stages_or_for_one(file: Path) -> None:
    stages = load_stages(file, ["seed=7", "stages.second.steps=9", "steps=5", "stages.first.lora.rank=2"])
    assert [stage.recipe.seed for stage in stages] == [7, 7]
    assert [stage.recipe.steps for stage in stages] == [5, 5]  # the last one counts
    assert stages[0].recipe.lora.rank == 2 and stages[1].recipe.lora.rank == 4
    with pytest.raises(RecipeError, match="no stage is called third; there are first, second"):
        load_stages(file, ["stages.third.steps=9"])
    with pytest.raises(RecipeError, match=r"stages\.yaml with .*, second: steps: want a whole number"):
        load_stages(file, ["stages.second.steps=many"])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "want a list of stages"),
        ("first", "want a list of stages"),
        ([{"name": "a/b"}], "'a/b' becomes a folder"),
        ([{"name": ".."}], "becomes a folder"),
        ([{"name": "a"}, {"name": "a"}], "two are called a"),
        ([{"model": "m"}], "stage1: model: a stage has none of its own"),
        ([{"steps": 0}], "stage1: steps: want more than 0"),
        ([{"task": "sft", "instructions": "a.json"}], "unknown key 'corpus': it belongs to task: pretrain"),
    ],
)
def test_stages_that_cannot_be(stages: Any, message: str, file: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        pretrain(changed(file, stages=stages))


def test_plans_and_dry_runs_show_each_stage(file: Path, model: Path, tmp_path: Path) -> None:
    stages = [stage.recipe for stage in load_stages(file, ["stages.second.vocabulary=new-rows"])]
    first, second = plan_stages(stages)
    assert first.shape == second.shape and not second.assumed  # the first base's rows are known
    assert second.trainable == 2 * 10 * 32 + 2 * 2 * 4 * (32 + 32)
    for words in (["model", "plan"], ["pretrain", "--dry-run"]):
        done = CliRunner().invoke(cli, [*words, str(file)])
        assert done.exit_code == 0, done.output
        assert "stage first" in done.output and "stage second" in done.output
    made = json.loads(CliRunner().invoke(cli, ["model", "plan", str(file), "--json"]).output)
    assert [plan["stage"] for plan in made["stages"]] == ["first", "second"]
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="holds several stages"):
        load_recipe(file)
    assert isinstance(CliRunner().invoke(cli, ["sft", str(file)]).exception, RecipeError)
