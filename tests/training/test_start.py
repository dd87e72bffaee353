"""A start that ends before its first checkpoint has nothing to lose, and refuses no other start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from stops import Stop, StopAt

from zhuzi import pretrain
from zhuzi.cli import cli
from zhuzi.errors import OutputExistsError, TrainingError
from zhuzi.model.folder import EMBEDDING, ModelFolder
from zhuzi.train import TrainCallback, TrainState
from zhuzi.train.run import Run

Recipes = Callable[..., Any]


class Spoil(TrainCallback):
    """Makes every loss no number from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, state: TrainState) -> None:
        if state.step == self.step:
            with torch.no_grad():
                state.model.get_input_embeddings().weight.fill_(torch.nan)


def test_more_data_may_follow_where_too_little_was_refused(stage1: Recipes, tmp_path: Path) -> None:
    data, recipe = tmp_path / "records.jsonl", tmp_path / "recipe.yaml"
    settings = stage1().model_dump(mode="json", exclude={"corpus", "separate_documents"})
    settings |= {"task": "sft", "instructions": [str(data)], "evaluate": {"share": 0.5}, "steps": 1}
    recipe.write_text(json.dumps({**settings, "sequence_length": 256}))
    line = json.dumps({"instruction": "你好", "output": "世界"}) + "\n"
    data.write_text(line)
    done = CliRunner().invoke(cli, ["sft", str(recipe)])
    assert "one example cannot be split; give more data" in str(done.exception)
    data.write_text(2 * line)
    done = CliRunner().invoke(cli, ["sft", str(recipe)])
    assert done.exit_code == 0, done.output


def test_a_run_without_a_checkpoint_gives_way(
    stage1: Recipes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zhuzi.train")
    first = stage1(samples={"every": 1, "prompts": ["天"], "max_new_tokens": 1}, log_every=1)
    with pytest.raises(Stop):
        pretrain(first, callbacks=[StopAt(2)])
    (first.output / "mine.txt").write_text("mine")
    (first.output / "trackers.json").write_text('{"wandb": "of the first"}')
    report = pretrain(stage1(seed=7, trackers=[]))
    assert "run: what was started there has no checkpoint; this run takes its place" in caplog.text
    assert report.resumed_from is None
    assert report.losses == pretrain(stage1(seed=7, trackers=[], output=tmp_path / "other")).losses
    lines = [json.loads(line) for line in (report.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert not (report.output / "samples.jsonl").exists()
    assert json.loads((report.output / "trackers.json").read_text()) == {}
    assert (report.output / "mine.txt").read_text() == "mine"
    with pytest.raises(OutputExistsError, match=r"seed \(7 there, 8 now\) differs"):
        pretrain(stage1(seed=8))


def test_epochs_may_become_other_steps_where_nothing_was_saved(stage1: Recipes) -> None:
    for epochs in (2, 1):
        recipe = stage1(steps=None, epochs=epochs)
        with pytest.raises(Stop):
            pretrain(recipe, callbacks=[StopAt(1)])
    assert pretrain(recipe).steps == json.loads((recipe.output / "run.json").read_text())["steps"]


def test_a_lower_rate_may_follow_a_loss_that_is_no_number(stage1: Recipes) -> None:
    with pytest.raises(TrainingError, match=r"step 2: .*Lower learning_rate .* and start again$"):
        pretrain(stage1(), callbacks=[Spoil(1)])
    lower = stage1(learning_rate=1e-3)
    # A checkpoint is work: from there on another recipe is refused, and the message says so.
    with pytest.raises(TrainingError, match=r"step 5: .* and start again with overwrite=True"):
        pretrain(lower, callbacks=[Spoil(4)])
    with pytest.raises(OutputExistsError, match="learning_rate"):
        pretrain(stage1())
    assert pretrain(lower).resumed_from == 3


def test_a_run_that_trains_is_not_taken_by_another_recipe(stage1: Recipes) -> None:
    class Second(TrainCallback):
        def on_train_begin(self, state: TrainState) -> None:
            with pytest.raises(OutputExistsError, match="run: another process trains there"):
                pretrain(stage1(seed=7))

    assert pretrain(stage1(), callbacks=[Second()]).steps == 6


def test_what_a_killed_overwrite_replaced_is_not_lost_to_a_third(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretrain(stage1(steps=1))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Run, "_take_back", lambda run: None)  # as after SIGKILL
        pretrain(stage1(seed=7), overwrite=True, callbacks=[StopAt(2)])
    with pytest.raises(OutputExistsError, match="seed"):
        pretrain(stage1(seed=8))
    assert (first.output.with_name(".run.replaced") / "report.json").is_file()


@pytest.mark.parametrize("length", [{"steps": 1}, {"steps": None, "epochs": 0.00001}], ids=str)
def test_a_run_in_which_nothing_trains_says_so(
    stage1: Recipes, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, length: dict[str, Any]
) -> None:
    """The first step of the published warm-up has a rate of 0."""
    said = "the only step is the first of the warm-up, with a learning rate of 0: nothing trains"
    recipe, path = stage1(**length), tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json())
    planned = CliRunner().invoke(cli, ["pretrain", str(path), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert f"  warning      {said}; write warmup: 0, or more " in planned.stdout
    assert "1 step, 64 tokens, 0." in planned.stdout and "0.00 epochs" not in planned.stdout
    report = pretrain(recipe)
    assert [r.levelname for r in caplog.records if r.message.startswith(said)] == ["WARNING"]
    assert torch.equal(
        ModelFolder.open(model).read(EMBEDDING), ModelFolder.open(report.result).read(EMBEDDING)
    )
    caplog.clear()
    pretrain(stage1(**length, warmup=0, output=tmp_path / "without"))
    pretrain(stage1(steps=2, output=tmp_path / "longer"))
    assert said not in caplog.text


def test_what_differs_is_named_with_both_values(
    stage2: Recipes, make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "m1", rows=410, tokenizer=new_tokenizer)
    recipe = stage2(steps=2)
    with pytest.raises(Stop):
        pretrain(stage2(steps=2, save_every=1), callbacks=[StopAt(1)])
    lora = {**recipe.model_dump()["lora"], "rank": 8}
    for changes, said in (
        ({"model": str(other)}, f"run whose model ({recipe.model} there, {other} now) differs; "),
        ({"lora": lora}, "run whose lora.rank (4 there, 8 now) differs; "),
        ({"lora": None}, ', "dropout": 0.1, '),
        ({"steps": 4}, "to train longer, let it end and train its result; else "),
    ):
        with pytest.raises(OutputExistsError) as refused:
            pretrain(stage2(**{"steps": 2, **changes}))
        assert said in str(refused.value)
    pretrain(recipe)
    with pytest.raises(OutputExistsError) as refused:
        pretrain(stage2(steps=4))
    assert f"merge {recipe.output}/adapter and train the merged model in another run" in str(refused.value)
