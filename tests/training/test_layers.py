"""Compiled decoder layers, and activations that are computed again in backward."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from zhuzi import pretrain
from zhuzi.errors import RecipeError, TrainingError, TrainingInterrupted
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState, layers
from zhuzi.train.base import load_for_training
from zhuzi.train.layers import is_compiled, naming_compile_errors
from zhuzi.train.recipe import PretrainRecipe
from zhuzi.train.recipe_file import load_recipe

Recipes = Callable[..., PretrainRecipe]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
KINDS = ("on", pytest.param("inductor", marks=pytest.mark.slow))


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By default what torch.compile traces runs as it is: generating C++ takes a minute."""
    torch._dynamo.reset()
    counters.clear()
    if request.param == "on":
        monkeypatch.setattr(layers.torch, "compile", partial(torch.compile, backend="aot_eager"))
    return str(request.param)


def _lora(dropout: float) -> dict[str, Any]:
    return {"rank": 4, "alpha": 16, "dropout": dropout, "targets": ["q_proj", "v_proj", "down_proj"]}


class Stop(TrainCallback):
    """Raises after a step."""

    def on_step_begin(self, state: TrainState) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


def test_a_run_says_that_it_compiles_and_counts_no_time_left_from_that(
    stage2: Recipes, tmp_path: Any, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zhuzi.train")
    said = "compiling the layers; the first step waits for it"
    for how in ("on", "off"):
        caplog.clear()
        recipe = stage2(compile=how, log_every=1, steps=3, output=tmp_path / how)
        pretrain(recipe)
        lines = (recipe.output / "log.jsonl").read_text().splitlines()
        left = [json.loads(line)["seconds_left"] for line in lines]
        assert (left[0] is None) == (how == "on") and left[1] is not None and left[2] == 0
        assert caplog.messages.count(said) == (how == "on")


@pytest.mark.parametrize("bits", [16, 8, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_and_names_are_those_without(stage2: Recipes, tmp_path: Any, backend: str, bits: int) -> None:
    reports = {
        how: pretrain(
            stage2(
                compile=how, lora=_lora(0.0), base_bits=bits, vocabulary="new-rows", log_every=1,
                gradient_checkpointing=True, verify_frozen=True, output=tmp_path / how,
            )
        )
        for how in ("off", "on")
    }  # fmt: skip
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]
    for (_, plain), (_, compiled) in zip(*(report.losses for report in reports.values()), strict=True):
        assert compiled == pytest.approx(plain, rel=1e-5)
    plain, compiled = reports.values()
    assert compiled.trainable_names == plain.trainable_names
    assert compiled.frozen_checked == plain.frozen_checked
    for file in ("adapter/adapter_model.safetensors", "checkpoints/checkpoint-6/trainable.safetensors"):
        ours, theirs = (load_file(report.output / file) for report in reports.values())
        assert list(ours) == list(theirs) and not any("_orig_mod" in name for name in ours)


@pytest.mark.parametrize("bits", [16, 8, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_dora_is_compiled_too(
    stage2: Recipes, tmp_path: Any, backend: str, bits: int, checkpointed: bool
) -> None:
    losses = {
        how: pretrain(
            stage2(
                compile=how, lora={**_lora(0.0), "dora": True}, base_bits=bits, log_every=1,
                gradient_checkpointing=checkpointed, output=tmp_path / how,
            )
        ).losses
        for how in ("off", "on")
    }  # fmt: skip
    assert counters["stats"]["unique_graphs"]
    # So `auto` leaves it off with 4 bits; torch 2.8 does not compile PEFT's use of int8 weights either.
    assert bool(counters["graph_break"]) == (bits == 4 or (bits == 8 and torch.__version__ < "2.9"))
    assert [loss for _, loss in losses["on"]] == pytest.approx([loss for _, loss in losses["off"]], rel=1e-5)


def test_dropout_draws_the_same_in_both_passes(stage2: Recipes, tmp_path: Any, backend: str) -> None:
    """Compiled, checkpointed and with dropout at once: what PEFT issue 3020 saw fail."""
    losses = [
        pretrain(
            stage2(
                compile="on", lora=_lora(0.05), gradient_checkpointing=checkpointed, log_every=1,
                output=tmp_path / str(checkpointed),
            )
        ).losses
        for checkpointed in (False, True)
    ]  # fmt: skip
    assert [loss for _, loss in losses[1]] == pytest.approx([loss for _, loss in losses[0]], rel=1e-6)


def test_resuming(stage2: Recipes, tmp_path: Any, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """To the bit where nothing changed; a run that was not compiled goes on compiled, and a line says so."""
    settings: dict[str, Any] = {"lora": _lora(0.05), "gradient_checkpointing": True, "log_every": 1}
    whole = pretrain(stage2(compile="on", output=tmp_path / "whole", **settings))
    for before in ("on", "off"):
        recipe = stage2(compile=before, output=tmp_path / f"from-{before}", **settings)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, callbacks=[Stop()])
        with caplog.at_level("INFO", "zhuzi.train"):
            resumed = pretrain(stage2(compile="on", output=recipe.output, **settings))
        assert resumed.resumed_from == 3
        assert ("compile is on, was off: dropout and rounding differ" in caplog.text) == (before == "off")
        if before == "on":
            assert resumed.losses == whole.losses


def test_lengths_that_vary_stay_compiled(stage2: Recipes, model: Any, backend: str) -> None:
    trained = load_for_training(ModelFolder.open(model), stage2(compile="on")).train()
    for length in (16, 20, 24, 17, 31, 9, 40, 33, 50, 21, 23):
        ids = torch.randint(410, (2, length))
        trained(input_ids=ids, labels=ids).loss.backward()
    assert counters["stats"]["unique_graphs"] <= 4  # two kinds of first input, with a fixed length and any
    assert not counters["recompile_limit"]
    made = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        trained.eval()(input_ids=torch.randint(410, (3, 11)))
    assert counters["stats"]["unique_graphs"] == made  # evaluation runs as it did


@pytest.mark.parametrize("how", ["off", "on"])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_no_frozen_matrix_is_kept_for_backward(
    stage2: Recipes, model: Path, backend: str, bits: int, how: str
) -> None:
    """A compiler keeps what forward and backward both compute: of a 7B, 13 GB of dequantised weights."""
    trained: Any = load_for_training(
        ModelFolder.open(model), stage2(compile=how, base_bits=bits, lora=_lora(0.05))
    ).train()
    width, inner = trained.config.hidden_size, trained.config.intermediate_size
    kept: list[torch.Tensor] = []
    ids = torch.randint(400, (2, 24))  # so that no states have the shape of a matrix
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        trained(input_ids=ids, labels=ids).loss.backward()
    stored = {p.data_ptr() for p in trained.parameters()}
    made = [tuple(t.shape) for t in kept if t.data_ptr() not in stored]
    assert made and not {(width, width), (width, inner), (inner, width)} & set(made)
    assert bool(counters["stats"]["unique_graphs"]) == (how == "on")


def test_auto_is_off_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    with caplog.at_level("INFO", "zhuzi.train"):
        assert not is_compiled("off", GPU) and not caplog.records
        assert not is_compiled("auto", CPU)
        assert [record.message for record in caplog.records] == [
            "layers are not compiled: that needs a GPU (compile: auto)"
        ]
        monkeypatch.setattr(layers.shutil, "which", lambda name: None)
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
        assert not is_compiled("auto", GPU)
        assert "a C compiler" in caplog.text
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
        assert not is_compiled("auto", GPU)
        assert "Triton" in caplog.text
    with pytest.raises(TrainingError, match=r"compile: on needs a C\+\+ compiler"):
        is_compiled("on", CPU)


def test_auto_is_on_where_it_can_be(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setattr(layers.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(layers.Path, "is_file", lambda path: True)
    assert is_compiled("auto", GPU)
    with caplog.at_level("INFO", "zhuzi.train"):
        assert not is_compiled("auto", GPU, "DoRA over 4 bits") and is_compiled("on", GPU, "DoRA over 4 bits")
    assert caplog.messages == [
        "layers are not compiled: DoRA over 4 bits would take them apart (compile: auto)"
    ]


def test_yaml_takes_on_and_off_for_booleans(stage1: Recipes, tmp_path: Any) -> None:
    lines = stage1().model_dump_json(exclude_none=True, exclude={"compile"})
    path = tmp_path / "recipe.yaml"
    for written, meant in (("on", "on"), ("off", "off"), ("auto", "auto"), ("true", "on")):
        path.write_text(lines[:-1] + f', "compile": {written}}}')
        assert load_recipe(path).compile == meant
    path.write_text(lines[:-1] + ', "compile": maybe}')
    with pytest.raises(RecipeError, match="compile: want 'auto', 'on' or 'off'"):
        load_recipe(path)


def test_an_error_of_the_compiler_is_one_line() -> None:
    from torch._dynamo.exc import TorchDynamoException

    failed = TorchDynamoException("C++ compile error\n\nx.cpp:1: fatal error: y.h: No such file")
    why = r"\(x\.cpp:1: fatal error: y\.h: No such file\); write compile: off"
    with pytest.raises(TrainingError, match=why), naming_compile_errors(lambda: None):
        raise failed
    stopped = "SIGTERM: stopped while layers were compiled"
    with pytest.raises(TrainingInterrupted, match=stopped), naming_compile_errors(lambda: "SIGTERM"):
        raise failed
    with pytest.raises(KeyError), naming_compile_errors(lambda: "SIGTERM"):
        raise KeyError("another error")
