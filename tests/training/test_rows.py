"""`vocabulary: new-rows`: appended rows train, old ones stay to the bit, plain PEFT reads the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from zhuzi import Tokenizer, extend_model, merge_adapter, pretrain
from zhuzi.errors import InputError, RecipeError
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.train import TrainCallback, TrainState, base
from zhuzi.train.base import load_for_training, trainable
from zhuzi.train.recipe import PretrainRecipe

Recipes = Callable[..., PretrainRecipe]
OLD = 400  # rows of the first base


@pytest.fixture(scope="module")
def tied_model(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An extended model whose head is its embedding."""
    base = make_model(tmp_path_factory.mktemp("tied-base"), tie_word_embeddings=True)
    out = tmp_path_factory.mktemp("tied") / "model"
    extend_model(base, new_tokenizer, out)
    return out


@pytest.fixture(params=["untied", "tied"])
def either(request: pytest.FixtureRequest, model: Path, tied_model: Path) -> Path:
    """The extended model, untied and tied."""
    return model if request.param == "untied" else tied_model


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("bits", [16, 8])
def test_loss_and_gradients_are_those_of_training_all_rows(
    request: pytest.FixtureRequest, stage: str, bits: int, either: Path
) -> None:
    make = request.getfixturevalue(stage)
    ids = torch.randint(410, (2, 16), generator=torch.Generator().manual_seed(1))
    found = {}
    for vocabulary in ("full", "new-rows"):
        recipe = make(model=str(either), vocabulary=vocabulary, base_bits=bits)
        if recipe.lora is not None:
            recipe = make(
                model=str(either), vocabulary=vocabulary, base_bits=bits,
                lora={**recipe.lora.model_dump(), "dropout": 0.0},
            )  # fmt: skip
        torch.manual_seed(0)
        trained = load_for_training(ModelFolder.open(either), recipe)
        loss = trained(input_ids=ids, labels=ids).loss
        loss.backward()
        gradients = {n.split(".model.")[-1]: p.grad for n, p in trainable(trained)}
        found[vocabulary] = loss.item(), gradients
    assert found["new-rows"][0] == pytest.approx(found["full"][0], rel=1e-5)
    for name, gradient in found["new-rows"][1].items():
        if "trainable_tokens_delta" in name:
            module = "lm_head" if "lm_head" in name else "embed_tokens"
            of_all = next(g for n, g in found["full"][1].items() if module in n)[OLD:]
        else:
            of_all = found["full"][1][name]
        assert gradient.shape == of_all.shape
        torch.testing.assert_close(gradient, of_all, rtol=1e-5, atol=1e-7 + 1e-5 * float(of_all.abs().max()))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_layers_pass_states_in_16_bits(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    vocabulary: str,
    either: Path,
) -> None:
    """As on a GPU, although what trains is fp32: twice the memory and traffic otherwise."""
    monkeypatch.setattr(base, "compute_dtype", lambda: torch.bfloat16)
    recipe = request.getfixturevalue(stage)(model=str(either), vocabulary=vocabulary)
    trained: Any = load_for_training(ModelFolder.open(either), recipe).train()
    passed = []
    for layer in [m for m in trained.modules() if isinstance(m, LlamaDecoderLayer)]:
        layer.register_forward_hook(lambda module, inputs, out: passed.append((inputs[0].dtype, out.dtype)))
    ids = torch.arange(380, 410)[None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = trained(input_ids=ids, labels=ids).loss
    loss.backward()
    assert set(passed) == {(torch.bfloat16, torch.bfloat16)}
    assert all(p.dtype == p.grad.dtype == torch.float32 for _, p in trainable(trained))


def test_old_rows_stay_and_the_adapter_is_one_of_pefts(stage2: Recipes, either: Path, tmp_path: Path) -> None:
    recipe = stage2(model=str(either), vocabulary="new-rows", base_bits=16, verify_frozen=True)
    report = pretrain(recipe)
    assert report.losses[-1][1] < report.losses[0][1]
    assert report.trainable < 30 * 32 * 2 + 4 * 32 * 2 * 2 * 2 * 2
    merge_adapter(either, report.result, tmp_path / "merged")
    before, after = _weights(either), _weights(tmp_path / "merged")
    for name in (EMBEDDING, HEAD) if HEAD in before else (EMBEDDING,):
        assert torch.equal(before[name][:OLD], after[name][:OLD])
        assert not torch.equal(before[name][OLD:], after[name][OLD:])

    config = json.loads((report.result / "adapter_config.json").read_text())
    tied = ModelFolder.open(either).tied
    assert config["trainable_token_indices"].keys() == {"embed_tokens", *([] if tied else ["lm_head"])}
    base = AutoModelForCausalLM.from_pretrained(either, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, report.result).eval()
    ours = load_for_training(ModelFolder.open(either), recipe).eval()
    saved = dict(load_file(report.output / "checkpoints/checkpoint-6/trainable.safetensors").items())
    for name, parameter in trainable(ours):
        parameter.data.copy_(saved[name])
    ids = torch.arange(16, 410).reshape(2, -1)
    torch.testing.assert_close(_logits(plain, ids), _logits(ours, ids), rtol=1e-5, atol=1e-5)


def test_a_stage_without_lora_writes_a_whole_model(stage1: Recipes, either: Path) -> None:
    report = pretrain(stage1(model=str(either), vocabulary="new-rows"))
    before, after = _weights(either), _weights(report.result)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == ({EMBEDDING, HEAD} & set(before) if ModelFolder.open(either).tied else {EMBEDDING})
    assert torch.equal(before[EMBEDDING][:OLD], after[EMBEDDING][:OLD])
    assert json.loads((report.result / "zhuzi.json").read_text())["original_rows"] == OLD


def test_a_stopped_run_resumes_to_the_bit(stage2: Recipes, tmp_path: Path) -> None:
    whole = pretrain(stage2(vocabulary="new-rows", output=tmp_path / "whole"))
    shortened = tmp_path / "stopped"
    (tmp_path / "whole").rename(shortened)
    for name in ("report.json", "adapter", "checkpoints/checkpoint-6"):
        path = shortened / name
        path.rename(tmp_path / path.name)
    resumed = pretrain(stage2(vocabulary="new-rows", output=shortened))
    assert resumed.resumed_from == 3 and resumed.losses == whole.losses
    name = "adapter_model.safetensors"
    assert (resumed.result / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_the_first_bases_rows_are_recorded_and_carried_on(model: Path, tmp_path: Path) -> None:
    assert ModelFolder.open(model).original_rows == OLD
    tokenizer = tmp_path / "tokenizer"
    Tokenizer.from_dir(model).save(tokenizer)
    added = json.loads((tokenizer / "added_tokens.json").read_text())
    (tokenizer / "added_tokens.json").write_text(
        json.dumps({**added, "<|user|>": len(added) + max(added.values())})
    )
    extend_model(model, tokenizer, tmp_path / "again", pad_to_multiple=64)
    assert ModelFolder.open(tmp_path / "again").original_rows == OLD


def test_where_no_record_tells_the_recipe_must(
    stage1: Recipes, base_model: Path, model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "unrecorded"
    copy.mkdir()
    for file in model.iterdir():
        if file.name != "zhuzi.json":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RecipeError, match="original_rows: 32000"):
        pretrain(stage1(model=str(copy), vocabulary="new-rows"))
    told = pretrain(stage1(model=str(copy), vocabulary="new-rows", original_rows=OLD))
    assert told.trainable == 10 * 32
    with pytest.raises(RecipeError, match="records 400"):
        pretrain(stage1(model=str(model), vocabulary="new-rows", original_rows=399))
    with pytest.raises(RecipeError, match="none is new"):
        pretrain(stage1(model=str(copy), vocabulary="new-rows", original_rows=410))
    record = json.loads((model / "zhuzi.json").read_text())
    (copy / "zhuzi.json").write_text(json.dumps({**record, "original_rows": -1}))
    with pytest.raises(InputError, match="original_rows"):
        pretrain(stage1(model=str(copy), vocabulary="new-rows"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_rows": 400}, "original_rows"),
        ({"vocabulary": "new-rows", "modules_to_save": []}, "new-rows"),
    ],
)
def test_recipes_that_cannot_be(stage2: Recipes, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage2(**changes)


@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_plain_peft_gives_the_logits_that_trained(
    stage2: Recipes, either: Path, vocabulary: str, dtype: torch.dtype, within: float
) -> None:
    """Whole matrices and new rows, tied and untied, on a base in fp32 and in bf16."""
    held: list[torch.Tensor] = []
    ids = torch.arange(16, 410).reshape(2, -1)

    class Keep(TrainCallback):
        def on_train_end(self, state: TrainState) -> None:
            held.append(_logits(state.model.eval(), ids))

    report = pretrain(
        stage2(model=str(either), vocabulary=vocabulary, base_bits=16, steps=3), callbacks=[Keep()]
    )
    base = AutoModelForCausalLM.from_pretrained(either, dtype=dtype)
    plain = PeftModel.from_pretrained(base, report.result).eval()
    apart = float((_logits(plain, ids).float() - held[0]).abs().max())
    assert apart <= within * max(1.0, float(held[0].abs().max()))
