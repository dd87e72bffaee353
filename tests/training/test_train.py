"""Both stages and tuning: what trains, what stays, what comes out, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_corpus
from transformers import AutoModelForCausalLM, TrainerCallback

from zhuzi import Tokenizer, pretrain, sft
from zhuzi.errors import MismatchError, OutputExistsError, RecipeError, TrainingError
from zhuzi.model.folder import EMBEDDING, ModelFolder
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.stage import _require_frozen

Recipes = Callable[..., Any]
LAYERS = [f"base_model.model.model.layers.{i}.self_attn" for i in range(2)]


def test_stage1_trains_the_embedding_alone(stage1: Recipes, model: Path) -> None:
    report = pretrain(stage1(verify_frozen=True))
    base, made = ModelFolder.open(model), ModelFolder.open(report.result)
    assert report.trainable_names == [EMBEDDING]
    assert (report.trainable, report.parameters) == (
        410 * 32,
        sum(p.numel() for p in _load(model).parameters()),
    )
    assert report.frozen_checked == len(list(_load(model).named_parameters())) - 1 + 2  # two rotary buffers
    changed = [name for name in base.tensors if not torch.equal(base.read(name), made.read(name))]
    assert changed == [EMBEDDING]
    assert made.dtype == base.dtype and made.config == base.config
    assert _load(report.result).config.vocab_size == 410
    assert Tokenizer.from_dir(report.result).fingerprint == base.tokenizer.fingerprint

    assert [step for step, _ in report.losses] == [2, 3, 4, 6]  # every log, and every checkpoint
    assert report.losses[-1][1] < report.losses[0][1]
    assert report.tokens == 6 * 4 * 16 and report.steps == 6 and report.resumed_from is None
    lines = [json.loads(line) for line in (report.output / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == report.losses
    assert report.learning_rates[-1][1] == pytest.approx(0, abs=1e-3)


def test_stage2_trains_lora_embedding_and_head(stage2: Recipes, model: Path) -> None:
    report = pretrain(stage2(verify_frozen=True))
    lora = [f"{at}.{p}.lora_{x}.default.weight" for at in LAYERS for p in ("q_proj", "v_proj") for x in "AB"]
    whole = [
        "base_model.model.model.embed_tokens.modules_to_save.default.weight",
        "base_model.model.lm_head.modules_to_save.default.weight",
    ]
    assert sorted(report.trainable_names) == sorted(lora + whole)
    assert report.trainable == 2 * 410 * 32 + 8 * 4 * 32
    assert report.parameters == sum(p.numel() for p in _load(model).parameters()) + 8 * 4 * 32
    # Parameters and buffers, PEFT's two frozen copies, and the scales of 14 int8 matrices.
    assert report.frozen_checked == 21 + 2 + 14
    record = json.loads((report.result / "zhuzi.json").read_text())
    assert record["rows"] == 410 and record["base"]["fingerprint"] == ModelFolder.open(model).fingerprint
    assert sorted(p.name for p in report.result.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "zhuzi.json",
    ]  # fmt: skip


def test_tuning(stage2: Recipes, instructions: Path, model: Path) -> None:
    settings = stage2(output=stage2().output).model_dump(exclude={"corpus"})
    lora = {"targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
    recipe = SftRecipe.model_validate(
        {**settings, "task": "sft", "instructions": instructions, "lora": lora, "sequence_length": 256}
    )
    report = sft(recipe)
    assert sum("lora_A" in name for name in report.trainable_names) == 14
    assert report.losses[-1][1] < report.losses[0][1]
    assert sft(recipe) == report  # finished: the same report, from its file


@pytest.mark.parametrize("bits", [8, 16])
def test_tied_heads_stay_tied(
    make_model: Callable[..., Path], stage2: Recipes, new_tokenizer: Path, tmp_path: Path, bits: int
) -> None:
    tied = make_model(tmp_path / "tied", rows=410, tokenizer=new_tokenizer, tie_word_embeddings=True)
    report = pretrain(stage2(model=str(tied), base_bits=bits))
    assert sum("modules_to_save" in name for name in report.trainable_names) == 1
    assert report.trainable == 410 * 32 + 8 * 4 * 32


def test_padding_rows_are_fine(
    make_model: Callable[..., Path], stage1: Recipes, new_tokenizer: Path, tmp_path: Path
) -> None:
    padded = make_model(tmp_path / "padded", rows=448, tokenizer=new_tokenizer)
    assert pretrain(stage1(model=str(padded), gradient_checkpointing=True)).trainable == 448 * 32


def test_weight_files_and_head_alone(
    make_model: Callable[..., Path], stage1: Recipes, new_tokenizer: Path, tmp_path: Path
) -> None:
    split = make_model(tmp_path / "split", rows=410, tokenizer=new_tokenizer, tie_word_embeddings=False)
    report = pretrain(stage1(model=str(split), modules_to_save=["lm_head"]))
    base, made = ModelFolder.open(split), ModelFolder.open(report.result)
    assert [n for n in base.tensors if not torch.equal(base.read(n), made.read(n))] == ["lm_head.weight"]


class SetWeights(TrainerCallback):
    """Writes a value into the embedding after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            kwargs["model"].get_input_embeddings().weight.data.fill_(self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(stage1: Recipes, value: float) -> None:
    with pytest.raises(TrainingError, match="step 4: the loss is nan"):
        pretrain(stage1(), callbacks=[SetWeights(3, value)])
    assert not (stage1().output / "model").exists()


class Touch(TrainerCallback):
    """Changes a frozen tensor."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].model.norm.weight.data += 1


def test_a_frozen_tensor_that_moved_is_named(stage1: Recipes) -> None:
    with pytest.raises(TrainingError, match=r"frozen: model\.norm\.weight"):
        pretrain(stage1(verify_frozen=True), callbacks=[Touch()])


def test_tensors_that_come_or_go_count_as_changed() -> None:
    assert _require_frozen({"a": "1", "t": "2"}, {"a": "1", "t": "3"}, ["t"]) == 1
    with pytest.raises(TrainingError, match="frozen: b"):
        _require_frozen({"a": "1", "b": "2"}, {"a": "1"}, [])


def test_mismatches(
    stage1: Recipes, model: Path, base_model: Path, old_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match="encoded by another tokenizer"):
        pretrain(stage1(model=str(base_model)))
    shrunk = Path(shutil.copytree(base_model, tmp_path / "shrunk"))
    for file in model.glob("*token*"):
        shutil.copy(file, shrunk)
    with pytest.raises(MismatchError, match="410 ids, its embedding 400 rows"):
        pretrain(stage1(model=str(shrunk)))
    with pytest.raises(RecipeError, match="no module 'query'"):
        pretrain(stage1(lora={"targets": ["q_proj", "query"]}))
    short = tmp_path / "short"
    short.mkdir()
    fingerprint = Tokenizer.from_dir(model).fingerprint
    write_corpus(short, [[[1, 2, 3]]], fingerprint=fingerprint, vocab_size=410)
    with pytest.raises(TrainingError, match="do not fill one block"):
        pretrain(stage1(corpus=short))


def test_output_folder(stage1: Recipes, tmp_path: Path) -> None:
    recipe = stage1(steps=1)
    first = pretrain(recipe)
    assert pretrain(recipe) == first
    with pytest.raises(OutputExistsError, match=r"seed differs|seed \(42 there, 7 now\) differs"):
        pretrain(stage1(steps=1, seed=7))
    assert pretrain(stage1(steps=1, seed=7), overwrite=True).losses != first.losses
    with pytest.raises(OutputExistsError, match="which the run reads"):
        pretrain(stage1(steps=1, model=str(first.result)), overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="no training run"):
        pretrain(stage1(output=other))


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)
