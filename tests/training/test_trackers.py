"""The figures of a run in TensorBoard (read back from its files), W&B, MLflow and SwanLab where installed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from stops import Stop, StopAt

from zhuzi import pretrain
from zhuzi.errors import RecipeError, TrainingError
from zhuzi.train import checks, trackers

Recipes = Callable[..., Any]


def _scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_what_the_log_does_and_a_resumed_run_continues_it(
    stage1: Recipes, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    caplog.set_level("INFO", "zhuzi.train")
    recipe = stage1(log_every=1, evaluate={"every": 2, "share": 0.1})
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    assert [step for step, _ in _scalars(recipe.output)["train/loss"]] == [1, 2, 3, 4, 5]
    time.sleep(1)  # TensorBoard reads files in the order of the seconds in which they were begun
    report = pretrain(recipe)
    assert caplog.messages.count(f"TensorBoard: tensorboard --logdir {recipe.output}/tensorboard") == 2
    found = _scalars(recipe.output)
    assert found["train/loss"] == [(step, pytest.approx(loss)) for step, loss in report.losses]
    logged = [json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()]
    keys = {key for line in logged if "loss" in line for key in line}
    assert {f"train/{key}" for key in keys - {"step"}} == {tag for tag in found if tag.startswith("train/")}
    bits = [(e["step"], pytest.approx(e["bits_per_byte"]["held out"])) for e in report.evaluations]
    assert found["evaluation/bits_per_byte/held_out"] == bits


def test_tensorboard_shows_the_samples(stage1: Recipes) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    samples = {"every": 2, "prompts": ["The river", "你好"], "max_new_tokens": 8, "temperature": 1.0}
    recipe = stage1(samples=samples)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    time.sleep(1)
    pretrain(recipe)
    written = [json.loads(line) for line in (recipe.output / "samples.jsonl").read_text().splitlines()]
    events = accumulator.EventAccumulator(str(recipe.output / "tensorboard"))
    events.Reload()
    for n, prompt in enumerate(["The river", "你好"], 1):
        shown = {
            event.step: event.tensor_proto.string_val[0].decode()
            for event in events.Tensors(f"samples/{n}/text_summary")  # step 4 twice: it was trained again
        }
        wanted = {line["step"]: line["text"] for line in written if line["prompt"] == prompt}
        assert list(shown) == list(wanted) == [0, 2, 4, 6]
        for step, text in shown.items():
            assert text.replace("\n    ", "\n") == f"    {prompt}\n\n{wanted[step]}"


def test_no_tracker_where_none_is_wanted_or_installed(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = pretrain(stage1(steps=1, trackers=[]))
    assert not (report.output / "tensorboard").exists()
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert checks.trackers_of(stage1()) == ()
    for name in ("tensorboard", "wandb"):
        with pytest.raises(RecipeError, match=rf"trackers: {name} is not installed; .*pip install {name}"):
            pretrain(stage1(trackers=name))


def test_a_tracker_that_does_not_start_stops_a_new_run_alone(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no\nroute to host")

    pytest.importorskip("tensorboard")
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "tensorboard", Broken)
    recipe = stage1()
    with pytest.raises(TrainingError, match=r"tensorboard does not start \(no route to host\); leave it out"):
        pretrain(recipe)
    with pytest.raises(Stop):
        pretrain(stage1(trackers=[]), callbacks=[StopAt(5)])
    assert pretrain(recipe).resumed_from == 3
    assert "training goes on without it" in caplog.text


def test_a_tracker_that_fails_is_said_once(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")

    def log(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(trackers.LOGGER_TYPE_TO_CLASS["tensorboard"], "log", log)
    assert len(pretrain(stage1()).losses) == 3
    assert caplog.text.count("tensorboard failed (disk gone)") == 1


@pytest.mark.skipif(not find_spec("mlflow"), reason="mlflow is not installed")
def test_mlflow_continues_its_run(stage1: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    recipe = stage1(log_every=1, trackers=["mlflow"], samples={"every": 3, "prompts": "天"})
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    report = pretrain(recipe)
    runs = mlflow.search_runs(experiment_names=["zhuzi"], output_format="list")
    assert len(runs) == 1 and runs[0].data.params["sequence_length"] == "16"
    history = mlflow.MlflowClient().get_metric_history(runs[0].info.run_id, "train/loss")
    assert {(m.step, m.value) for m in history} == set(report.losses)
    found = mlflow.MlflowClient().list_artifacts(runs[0].info.run_id, "samples")
    assert [file.path for file in found] == [f"samples/step-{step}.txt" for step in (0, 3, 6)]


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb_offline_continues_its_run(stage1: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = stage1(log_every=1, trackers=["wandb"], samples={"every": 3, "prompts": "天"})
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    pretrain(recipe)
    run = json.loads((recipe.output / "trackers.json").read_text())["wandb"]
    assert len(list((recipe.output / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))) == 2
    pretrain(recipe, overwrite=True)  # what a tracker wrote is the run's


@pytest.mark.skipif(not find_spec("swanlab"), reason="swanlab is not installed")
def test_swanlab_offline_continues_its_run(stage1: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    recipe = stage1(log_every=1, trackers=["swanlab"], samples={"every": 3, "prompts": "天"})
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(5)])
    pretrain(recipe)
    run = json.loads((recipe.output / "trackers.json").read_text())["swanlab"]
    assert len(list((recipe.output / "swanlab").glob(f"run-*-{run}"))) == 2
