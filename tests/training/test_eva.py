"""LoRA that starts from the directions of what its layers read: `lora.init: eva`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig
from peft.tuners.lora.eva import get_eva_state_dict
from safetensors.torch import load_file

from zhuzi import pretrain, sft
from zhuzi.corpus.dataset import Corpus
from zhuzi.errors import RecipeError, TrainingError
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState, eva
from zhuzi.train.base import digest_tensors, load_for_training
from zhuzi.train.batches import Batches
from zhuzi.train.data import Blocks, collate_blocks
from zhuzi.train.recipe import SftRecipe

Recipes = Callable[..., Any]
CPU = torch.device("cpu")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora(**changes: Any) -> dict[str, Any]:
    return {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ALL, "init": "eva", **changes}


def first_batches(recipe: Any, folder: ModelFolder) -> Batches:
    blocks = Blocks(Corpus(recipe.corpus[0]), recipe.sequence_length, folder.rows)
    return Batches(blocks, collate_blocks, recipe, recipe.micro_batch_size)


@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_the_directions_are_pefts(stage2: Recipes, model: Path, vocabulary: str) -> None:
    """PEFT's own function on the plain base, with the same batches."""
    folder = ModelFolder.open(model)
    recipe = stage2(base_bits=16, lora=lora(), vocabulary=vocabulary, micro_batch_size=4)
    trained = load_for_training(folder, recipe)
    drawn, before = torch.get_rng_state(), digest_tensors(trained)
    with torch.no_grad():
        logits = trained.eval()(input_ids=torch.arange(64)[None]).logits
    eva.initialise(trained, first_batches(recipe, folder), CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), drawn)

    order = first_batches(recipe, folder)
    data = [batch.inputs for step in range(eva.MOST) for batch in order.of_step(step)]
    config = LoraConfig(r=4, target_modules=ALL, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0))
    wanted = get_eva_state_dict(folder.load(torch.float32), data, config, show_progress_bar=False)
    layers = {name: m for name, m in trained.named_modules() if hasattr(m, "lora_A")}
    assert len(wanted) == len(layers) == 14
    for name, layer in layers.items():
        found = layer.lora_A["default"].weight
        theirs = wanted[name.removeprefix("base_model.model.")].float()
        torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found @ found.T, torch.eye(4), rtol=1e-4, atol=1e-4)

    after = digest_tensors(trained)
    assert {name for name in before if before[name] != after[name]} == {
        f"{name}.lora_A.default.weight" for name in layers
    }
    with torch.no_grad():
        assert torch.equal(trained.eval()(input_ids=torch.arange(64)[None]).logits, logits)
    assert not any(module._forward_pre_hooks for module in layers.values())


class Stop(TrainCallback):
    def on_step_begin(self, state: TrainState) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bits", [16, 8])
def test_a_run_starts_from_them_and_resumes_without(
    stage2: Recipes, tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"base_bits": bits, "lora": lora(), "log_every": 1, "verify_frozen": True}
    with caplog.at_level("INFO", "zhuzi.train"):
        whole = pretrain(stage2(output=tmp_path / "whole", **settings))
    assert "lora.init: eva: from " in caplog.text
    plain = pretrain(stage2(output=tmp_path / "plain", **settings | {"lora": lora(init="default")}))
    assert whole.losses[0][1] == pytest.approx(plain.losses[0][1], rel=1e-6)  # B is zero
    assert whole.losses[-1][1] != plain.losses[-1][1]
    with pytest.raises(KeyboardInterrupt):
        pretrain(stage2(output=tmp_path / "stopped", **settings), callbacks=[Stop()])
    caplog.clear()
    with caplog.at_level("INFO", "zhuzi.train"):
        resumed = pretrain(stage2(output=tmp_path / "stopped", **settings))
    assert "eva" not in caplog.text and resumed.losses == whole.losses
    ours, theirs = (load_file(r.result / "adapter_model.safetensors") for r in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_on_the_head_on_records_and_with_dora(stage2: Recipes, tmp_path: Path, instructions: Path) -> None:
    """Padded and packed records: only tokens of outputs count. The head reads the last hidden states."""
    for packing in (False, True):
        settings = stage2(
            modules_to_save=["embed_tokens"], lora=lora(rank=1, targets=["q_proj", "lm_head"], dora=True),
            steps=2, sequence_length=256, output=tmp_path / f"run-{packing}",
        ).model_dump(exclude={"corpus", "separate_documents"})  # fmt: skip
        recipe = SftRecipe.model_validate(
            {**settings, "task": "sft", "instructions": instructions, "packing": packing}
        )
        assert sft(recipe).steps == 2


def test_what_it_cannot_do_is_refused(stage2: Recipes, tmp_path: Path) -> None:
    few = stage2(lora=lora(rank=16, targets=["down_proj"]), micro_batch_size=1, output=tmp_path / "few")
    with pytest.raises(TrainingError, match=r"a forward of 32 tokens.*raise micro_batch_size"):
        pretrain(few)
    large = stage2(lora=lora(rank=40, targets=["q_proj"]), output=tmp_path / "large")
    with pytest.raises(
        TrainingError, match=r"finds 32 directions in what .*q_proj reads, and lora.rank is 40"
    ):
        pretrain(large)
    with pytest.raises((RecipeError, ValueError), match="'orthogonal' or 'eva'"):
        stage2(lora=lora(init="pissa"))
