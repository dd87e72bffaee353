"""Ten things that go wrong when a LLaMA is taught Chinese with plain PEFT and transformers, and our answers.

Each test first shows the trouble with the plain libraries, then what Zhuzi does. The numbers follow how often
people meet it:

1. an adapter put on a model of another vocabulary size
2. a saved adapter without the embedding that was trained
3. a tokenizer of fewer ids, and a model that shrinks to it
4. an embedding and a head that do not train after all
5. trained parameters in fp16, whose gradients cannot be unscaled
6. a loss that is no number: every target cut away, or an overflow
7. gradients that go to the copy of a matrix that PEFT keeps
8. memory that does not suffice for both matrices
9. a merge that does not give the model that was trained
10. an adapter that servers do not take
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from zhuzi import Tokenizer, extend_model, merge_adapter, pretrain
from zhuzi.errors import MismatchError, TrainingError
from zhuzi.model.export.export import export_model
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.train import TrainCallback, TrainState, base, load_recipe, plan_run
from zhuzi.train.base import load_for_training, trainable
from zhuzi.train.checkpoint import checkpoints
from zhuzi.train.data import Records
from zhuzi.train.recipe import PretrainRecipe
from zhuzi.train.schedule import make_optimizer

Recipes = Callable[..., Any]
IDS = torch.arange(16, 400).reshape(8, 48)
BOTH = ["embed_tokens", "lm_head"]


def plain(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)


def adapted(model: Any, **settings: Any) -> Any:
    """With PEFT's LoRA on q."""
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", **settings))


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids).logits
    return found


def loss_of(model: Any) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=IDS, labels=IDS).loss
    return loss


@pytest.fixture(scope="module")
def make_adapter(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains LoRA on q over 8 bits, and whatever else is asked for, on the extended model."""

    def make(**changes: Any) -> Path:
        settings = {
            "task": "pretrain", "model": str(model), "corpus": corpus, "base_bits": 8,
            "output": tmp_path_factory.mktemp("run") / "run", "sequence_length": 16, "steps": 4,
            "batch_size": 4, "learning_rate": 1e-2, "lora": {"rank": 4, "targets": ["q_proj"]},
        }  # fmt: skip
        return pretrain(PretrainRecipe.model_validate({**settings, **changes})).result

    return make


@pytest.fixture(scope="module")
def adapter(make_adapter: Callable[..., Path]) -> Path:
    """With embedding and head."""
    return make_adapter()


def test_1_an_adapter_on_a_model_of_another_size(
    base_model: Path, adapter: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(plain(base_model), adapter)  # that the base is to be extended, nothing says
    lora_alone = make_adapter(modules_to_save=[])
    PeftModel.from_pretrained(plain(base_model), lora_alone)  # and this fits wherever q does

    for one in (adapter, lora_alone):
        with pytest.raises(MismatchError, match=r"another number of rows \(410\) .* \(400\); merge it into"):
            merge_adapter(base_model, one, tmp_path / "out")


def test_2_an_adapter_without_what_was_trained(model: Path, adapter: Path, tmp_path: Path) -> None:
    theirs = adapted(plain(model))
    theirs.get_input_embeddings().weight.requires_grad_(True)  # trains, and is not PEFT's
    theirs.save_pretrained(tmp_path / "theirs")
    assert not any("embed" in name for name in load_file(tmp_path / "theirs" / "adapter_model.safetensors"))

    ours, before = load_file(adapter / "adapter_model.safetensors"), ModelFolder.open(model)
    for name in (EMBEDDING, HEAD):
        held = ours[f"base_model.model.{name}"]
        assert held.shape == (410, 32) and held.dtype == torch.float32
        assert not torch.equal(held, before.read(name).float())


def test_3_a_tokenizer_of_fewer_ids(model: Path, old_tokenizer: Path, tmp_path: Path) -> None:
    theirs = plain(model)
    theirs.resize_token_embeddings(Tokenizer.from_dir(old_tokenizer).vocab_size)
    assert theirs.get_input_embeddings().weight.shape[0] == 400  # ten trained rows are gone, without a word

    with pytest.raises(MismatchError, match=r"has 400 ids, the model .* 410: rows are never removed"):
        extend_model(model, old_tokenizer, tmp_path / "out")


def test_4_matrices_that_do_not_train(model: Path, stage2: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [name for name, _ in trainable(adapted(plain(model)))]
    assert theirs and all(".lora_" in name for name in theirs)  # the new rows stay as they were drawn

    recipe = stage2()
    ours = load_for_training(ModelFolder.open(model), recipe)
    names = {name.split(".")[-4] for name, _ in trainable(ours) if "modules_to_save" in name}
    assert names == set(BOTH)
    # Should PEFT forget them one day, no run starts.
    monkeypatch.setattr(base, "LoraConfig", lambda **kw: LoraConfig(**{**kw, "modules_to_save": None}))
    with pytest.raises(TrainingError, match="parameters that train are not those of the recipe"):
        load_for_training(ModelFolder.open(model), recipe)


def test_5_gradients_in_fp16(model: Path, stage2: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def unscale(trained: Any) -> None:
        """A step of mixed precision, up to where it reads the gradients."""
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad])
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(trained)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)

    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        unscale(adapted(plain(model, torch.float16), modules_to_save=BOTH))

    monkeypatch.setattr(base, "compute_dtype", lambda: torch.float16)
    ours = load_for_training(ModelFolder.open(model), stage2(base_bits=16)).train()
    assert {parameter.dtype for _, parameter in trainable(ours)} == {torch.float32}
    unscale(ours)
    assert all(parameter.grad is not None for _, parameter in trainable(ours))


class SetWeights(TrainCallback):
    """Writes a value into the embedding after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, state: TrainState) -> None:
        if state.step == self.step:
            state.model.get_input_embeddings().weight.data.fill_(self.value)


def test_6_every_target_cut_away(model: Path, instructions: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.from_dir(model)
    whole = Records([instructions], tokenizer, 512)
    length = max(labels.count(-100) for _, labels in (whole[i] for i in range(4)))
    ids, labels = next((ids, labels) for ids, labels in map(whole.__getitem__, range(4)) if
                       labels.count(-100) == length)  # fmt: skip
    cut = torch.tensor([ids[:length]]), torch.tensor([labels[:length]])
    assert torch.isnan(plain(model)(input_ids=cut[0], labels=cut[1]).loss)

    ours = Records([instructions], tokenizer, length)
    assert ours.left_out >= 1 and "left out: the prompt fills the" in caplog.text
    assert all(any(label != -100 for label in ours[i][1]) for i in range(len(ours)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_6_a_loss_that_is_no_number(model: Path, stage1: Recipes, value: float) -> None:
    theirs = plain(model, torch.float16)
    theirs.lm_head.weight.data.fill_(60_000)  # beyond what fp16 holds, once it is multiplied
    assert not torch.isfinite(loss_of(theirs))  # a number like any other to an optimiser

    with pytest.raises(TrainingError, match="step 5: the loss is nan; this step changed nothing"):
        pretrain(stage1(), callbacks=[SetWeights(4, value)])
    assert not (stage1().output / "model").exists()
    (before,) = checkpoints(stage1().output / "checkpoints")
    assert all(torch.isfinite(t).all() for t in load_file(before / "trainable.safetensors").values())


def test_7_gradients_that_go_to_a_copy(model: Path, stage2: Recipes) -> None:
    eight = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=BOTH)
    theirs = prepare_model_for_kbit_training(
        plain(model, quantization_config=eight), use_gradient_checkpointing=False
    )
    theirs = adapted(theirs, modules_to_save=BOTH)
    for name, parameter in theirs.named_parameters():
        if "embed_tokens" in name or "lm_head" in name:
            parameter.requires_grad_(True)  # by name, as it is often done: both matrices answer to it
    with theirs.disable_adapter():
        loss_of(theirs).backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if "lm_head" in n}
    assert len(gradients) == 2 and {n: g is not None for n, g in gradients.items()} == {
        name: "original_module" in name for name in gradients
    }

    ours = load_for_training(ModelFolder.open(model), stage2(base_bits=8)).train()
    copies = [p for name, p in ours.named_parameters() if "original_module" in name]
    assert copies and sum(p.numel() for p in copies) == 0
    loss_of(ours).backward()
    for name, parameter in trainable(ours):
        if "modules_to_save" in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_8_memory_for_both_matrices(model: Path, stage2: Recipes) -> None:
    def states(trained: list[tuple[str, Any]], optimizer: Any) -> int:
        """Elements of the optimiser's moments for embedding and head."""
        for _, parameter in trained:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kept = [p for name, p in trained if any(matrix in name for matrix in BOTH)]
        return sum(t.numel() for p in kept for t in optimizer.state[p].values() if t.numel() > 1)

    theirs = trainable(adapted(plain(model), modules_to_save=BOTH))
    assert states(theirs, torch.optim.AdamW([p for _, p in theirs])) == 2 * 2 * 410 * 32
    recipe = stage2(vocabulary="new-rows")
    ours = trainable(load_for_training(ModelFolder.open(model), recipe))
    assert states(ours, make_optimizer(ours, recipe)) == 2 * 2 * 10 * 32

    # And before a GPU is rented: what the published run needs, and what to write for it to fit 12 GB.
    published = load_recipe("llama-7b-pretrain-stage2")
    plan = plan_run(published, gpus=1, gpu_memory=12 * 10**9)
    assert plan.fits is False and plan.changes
    settings = [change.replace(": ", "=") for change in plan.changes]
    changed = load_recipe("llama-7b-pretrain-stage2", settings)
    assert plan_run(changed, gpus=1, gpu_memory=12 * 10**9).fits


def test_9_a_merge_that_is_another_model(
    base_model: Path, model: Path, make_adapter: Callable[..., Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    def resized() -> Any:
        made = plain(base_model)
        made.resize_token_embeddings(410, mean_resizing=False)  # its new rows are drawn
        return made

    new = torch.arange(400, 410)[None]
    trained = adapted(resized())
    for name, parameter in trained.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_()
    trained.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    merged = PeftModel.from_pretrained(resized(), tmp_path / "theirs").merge_and_unload()
    assert (logits(merged, new) - logits(trained, new)).abs().max() > 1e-2 * logits(trained, new).abs().max()

    adapter = make_adapter()
    assert merge_adapter(model, adapter, tmp_path / "merged").difference <= 1e-4
    again = extend_model(base_model, new_tokenizer, tmp_path / "again", init="normal", seed=1).out
    with pytest.raises(MismatchError, match=r"another base model .* than that of .*again"):
        merge_adapter(again, adapter, tmp_path / "no")


def test_10_an_adapter_that_servers_do_not_take(model: Path, adapter: Path, tmp_path: Path) -> None:
    # vLLM and others refuse adapters that replace whole matrices: this key must be empty.
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == BOTH

    merged = merge_adapter(model, adapter, tmp_path / "merged").out
    served = export_model(merged, tmp_path / "served", format="hf", type="f32").path
    assert not list(served.glob("adapter*")) and "auto_map" not in json.loads(
        (served / "config.json").read_text()
    )
    wanted = logits(PeftModel.from_pretrained(plain(model), adapter))
    assert (logits(plain(served)) - wanted).abs().max() < 1e-2 * wanted.abs().max()
