"""Packed records: every one is there once, and none sees another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zhuzi import Tokenizer, sft
from zhuzi.model.folder import ModelFolder
from zhuzi.train.base import load_for_training
from zhuzi.train.data import IGNORED, PadRecords, Records
from zhuzi.train.packing import PackedRecords, PadBlocks
from zhuzi.train.recipe import SftRecipe

Recipes = Callable[..., Any]
LENGTH = 600


@pytest.fixture(scope="module")
def long_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with positions for several records."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    return folder


@pytest.fixture
def recipe(stage2: Recipes, long_model: Path, instructions: Path) -> SftRecipe:
    """Tuning on packed records."""
    settings = stage2(model=str(long_model), sequence_length=LENGTH, micro_batch_size=None).model_dump(
        exclude={"corpus", "separate_documents"}
    )
    lora = {**settings["lora"], "dropout": 0.0}
    changes = {"task": "sft", "instructions": instructions, "packing": True, "lora": lora}
    return SftRecipe.model_validate({**settings, **changes})


def _records(model: Path, path: Path) -> Records:
    return Records([path], Tokenizer.from_dir(model), LENGTH)


def test_each_record_is_packed_once(long_model: Path, instructions: Path) -> None:
    records = _records(long_model, instructions)
    for seed in range(5):
        packed = PackedRecords(records, LENGTH, seed, batch_size=4)
        assert sorted(i for block in packed.blocks for i in block) == list(range(len(records)))
        for i in range(len(packed)):
            ids, labels, positions = packed[i]
            assert len(ids) == len(labels) == len(positions) <= LENGTH
            assert all(labels[k] == IGNORED for k, position in enumerate(positions) if position == 0)
    assert len(packed) < len(records)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_those_of_unpacked_records(
    recipe: SftRecipe, long_model: Path, instructions: Path, checkpointing: bool
) -> None:
    records = _records(long_model, instructions)
    packed = PackedRecords(records, LENGTH, seed=0, batch_size=4)
    pad = PadRecords(Tokenizer.from_dir(long_model))
    blocks = PadBlocks(pad.pad)([packed[i] for i in range(len(packed))])
    assert int(blocks.pop("tokens")) == sum(len(ids) for ids, _ in records.items)
    apart = pad([records[i] for i in range(len(records))])
    found = []
    for batch in (blocks, apart):
        torch.manual_seed(0)
        changed = recipe.model_copy(update={"gradient_checkpointing": checkpointing})
        trained = load_for_training(ModelFolder.open(long_model), changed).train()
        loss = trained(**batch).loss
        loss.backward()
        gradients = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        wanted = found[1][1][name]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_tuning_on_packed_records(recipe: SftRecipe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "zhuzi.train"):
        report = sft(recipe)
    assert report.losses[-1][1] < report.losses[0][1]
    assert "4 records in 1 block of 600 tokens, " in caplog.text
    assert "% full: about 4 records per step" in caplog.text  # and not 16: there are no more
