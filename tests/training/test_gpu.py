"""On a CUDA machine: `pytest -m gpu tests/training/test_gpu.py`. Stage 2 as it runs there, and its memory."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from together import TORCHRUN

from zhuzi import pretrain
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState
from zhuzi.train.base import load_for_training
from zhuzi.train.recipe import PretrainRecipe

pytestmark = pytest.mark.gpu
Recipes = Callable[..., PretrainRecipe]
GIB = 2**30
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    """Peak memory of the test alone."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch._dynamo.reset()
    gc.collect()  # models of tests before: they refer to themselves
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield


def _lora(dropout: float) -> dict[str, Any]:
    return {"rank": 8, "alpha": 32, "dropout": dropout, "targets": TARGETS}


class StopAt(TrainCallback):
    """Raises after a step."""

    def on_step_begin(self, state: TrainState) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_stage_2_compiled_checkpointed_with_dropout(stage2: Recipes, bits: int, vocabulary: str) -> None:
    recipe = stage2(
        base_bits=bits, vocabulary=vocabulary, lora=_lora(0.05), compile="on", gradient_checkpointing=True,
        verify_frozen=True, log_every=1, steps=8,
    )  # fmt: skip
    report = pretrain(recipe)
    assert report.device.startswith("cuda:0 ") and report.frozen_checked
    assert report.losses[-1][1] < report.losses[0][1]
    names = load_file(report.result / "adapter_model.safetensors")
    assert not any("_orig_mod" in name for name in names)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_losses_are_those_of_the_plain_path(
    stage2: Recipes, tmp_path: Path, bits: int, vocabulary: str
) -> None:
    """Compiled and checkpointed beside neither, without dropout, to what bf16 rounds."""
    losses = []
    for on in (False, True):
        recipe = stage2(
            base_bits=bits, vocabulary=vocabulary, lora=_lora(0.0), compile="on" if on else "off",
            gradient_checkpointing=on, log_every=1, output=tmp_path / str(on),
        )  # fmt: skip
        losses.append([loss for _, loss in pretrain(recipe).losses])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_dropout_draws_the_same_in_both_passes(stage2: Recipes, tmp_path: Path) -> None:
    losses = []
    for on in (False, True):
        recipe = stage2(
            lora=_lora(0.05), compile="on", gradient_checkpointing=on, log_every=1, output=tmp_path / str(on)
        )
        losses.append([loss for _, loss in pretrain(recipe).losses])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_stopped_run_resumes(stage2: Recipes, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "lora": _lora(0.05), "vocabulary": "new-rows", "compile": "on", "gradient_checkpointing": True,
        "log_every": 1,
    }  # fmt: skip
    whole = pretrain(stage2(output=tmp_path / "whole", **settings))
    recipe = stage2(output=tmp_path / "stopped", **settings)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, callbacks=[StopAt()])
    resumed = pretrain(recipe)
    assert resumed.resumed_from == 3
    assert [loss for _, loss in resumed.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-3)


# Bounds in GiB per case: weights, the trained matrices with their gradients and moments, and one layer's
# activations. A 7B's 33.6 GiB with bitsandbytes' own product came from activations that were kept.
@pytest.mark.parametrize(
    ("bits", "vocabulary", "bound"), [(8, "new-rows", 12.0), (8, "full", 16.0), (4, "new-rows", 8.0)]
)
@pytest.mark.slow
def test_peak_memory_of_a_7b(
    stage2: Recipes, tmp_path: Path, bits: int, vocabulary: str, bound: float
) -> None:
    """8 x 512 tokens, checkpointed and compiled, of a LLaMA of 7B's shape with random weights."""
    if torch.cuda.get_device_properties(0).total_memory < 24 * GIB:
        pytest.skip("needs a GPU of 24 GiB")
    folder = _seven_billion(tmp_path / "7b")
    recipe = stage2(
        model=str(folder), base_bits=bits, vocabulary=vocabulary, lora=_lora(0.05), compile="on",
        gradient_checkpointing=True, **({"original_rows": 32_000} if vocabulary == "new-rows" else {}),
    )  # fmt: skip
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = load_for_training(ModelFolder.open(folder), recipe).train()
    held = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(held, lr=1e-4, fused=True)
    ids = torch.randint(49_953, (8, 512), device="cuda")
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert torch.isfinite(loss)
    assert torch.cuda.max_memory_allocated() / GIB < bound


def _seven_billion(folder: Path) -> Path:
    """A model folder of 7B's shape, 49,953 rows, random bf16 weights; 13.8 GB on disk."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=49_953, bos_token_id=1, eos_token_id=2)  # the rest is 7B's by default
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="5GB")
    return folder


# Trains, and prints the classes that hold the model.
SEVERAL = """
import json, os, sys
import zhuzi.train.loop
from zhuzi import pretrain
from zhuzi.train import TrainCallback
from zhuzi.train.recipe import PretrainRecipe

begin = zhuzi.train.loop.Loop.train

def tell(loop):
    if os.environ["RANK"] == "0":
        model = loop.processes.model
        print(type(model).__name__, *sorted({type(m).__name__ for m in model.modules()}))
    return begin(loop)

zhuzi.train.loop.Loop.train = tell
pretrain(PretrainRecipe.model_validate(json.loads(sys.argv[1])), progress=False)
"""


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"base_bits": 16, "fsdp": True}, "FSDPPeftModelForCausalLM"),
        (
            {"base_bits": 16, "fsdp": True, "vocabulary": "new-rows", "compile": "on"},
            "FSDPPeftModelForCausalLM",
        ),
        ({"base_bits": 8, "deepspeed": "zero-2"}, "DeepSpeedEngine"),
        ({"base_bits": 4, "deepspeed": "zero-2", "vocabulary": "new-rows"}, "DeepSpeedEngine"),
    ],
    ids=str,
)
def test_two_gpus_train_as_one_does(
    stage2: Recipes, tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    """Divided, to what bf16 rounds, and resumed from a checkpoint."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if "deepspeed" in settings:
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install 'zhuzi[deepspeed]'")
    common = {"lora": _lora(0.0), "log_every": 1, "gradient_checkpointing": True, **settings}
    alone = pretrain(stage2(output=tmp_path / "alone", **{**common, "fsdp": False, "deepspeed": None}))
    recipe = stage2(output=tmp_path / "two", **{**common, "micro_batch_size": 1})
    script = tmp_path / "train.py"
    script.write_text(SEVERAL)
    for first in (True, False):
        ended = subprocess.run(
            [sys.executable, *TORCHRUN, str(script), recipe.model_dump_json()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        kinds = ended.stdout.split()
        assert kind in kinds and (not recipe.fsdp or "FSDPLlamaDecoderLayer" in kinds)
        lines = [json.loads(line) for line in (recipe.output / "log.jsonl").read_text().splitlines()]
        assert [line["loss"] for line in lines] == pytest.approx([loss for _, loss in alone.losses], rel=1e-2)
        if first:
            shutil.rmtree(recipe.output / "checkpoints" / "checkpoint-6")
            (recipe.output / "report.json").unlink()
