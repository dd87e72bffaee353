"""Several processes: launched either way, one of them killed, the model divided among them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from together import ACCELERATE, TORCHRUN, run, write_recipe

from zhuzi import pretrain
from zhuzi.errors import RecipeError
from zhuzi.train import sharding
from zhuzi.train.recipe import PretrainRecipe, SftRecipe
from zhuzi.train.sharding import deepspeed_settings

Recipes = Callable[..., Any]
LORA = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}


def figures(run_folder: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step that was logged."""
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]


def close(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> bool:
    """Whether losses and norms differ by no more than rounding in fp32."""
    return len(a) == len(b) and all(x == pytest.approx(y, rel=1e-5) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "sft"])
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_both_launchers(
    stage1: Recipes, instructions: Path, tmp_path: Path, launcher: list[str], task: str
) -> None:
    """Two processes do what one does, accumulate half as often, and say each thing once."""

    def recipe(name: str, micro: int | None) -> Any:
        made = stage1(steps=2, log_every=1, micro_batch_size=micro, output=tmp_path / name)
        if task == "pretrain":
            return made
        settings = made.model_dump(exclude={"task", "corpus", "separate_documents"})
        more = {"task": "sft", "instructions": str(instructions), "sequence_length": 256}
        return SftRecipe.model_validate({**settings, **more})

    alone, together = recipe("alone", 4), recipe("together", 1)
    assert run(["-m", "zhuzi", task, write_recipe(alone)]).returncode == 0
    ended = run([*launcher, "-m", "zhuzi", task, write_recipe(together)])
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 1 and "together/model: 2 steps, loss" in ended.stdout
    for line in (f"{task}: embed_tokens", "plan: ", "step 1 of 2", "step 2 of 2"):
        assert ended.stderr.count(line) == 1, ended.stderr
    assert close(figures(together.output), figures(alone.output))


KILLED = """
import os, signal, sys
from pathlib import Path
from zhuzi.cli import main
from zhuzi.train.loop import Loop

step, marker = Loop._step, Path(sys.argv[1])

def killed(loop):
    if loop.state.step == 4 and loop.processes.process == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(loop)

Loop._step = killed
sys.argv = ["zhuzi", "pretrain", sys.argv[2]]
main()
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(stage2: Recipes, tmp_path: Path) -> None:
    whole, recipe = (stage2(log_every=1, lora=LORA, output=tmp_path / name) for name in ("whole", "killed"))
    script, marker = tmp_path / "train.py", tmp_path / "killed-once"
    script.write_text(KILLED)
    command = [*TORCHRUN, str(script), str(marker), write_recipe(recipe)]
    ended = run(command)
    # torchrun ends the others 30 seconds after it has told them to; here they see it themselves.
    assert time.time() - marker.stat().st_mtime < 60
    assert ended.returncode != 0
    said = "zhuzi: another process of this run has ended"
    assert ended.stderr.count(said) == 1, ended.stderr
    assert not (recipe.output / "report.json").exists()
    ended = run(command)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("resumes after step 3 of 6") == 1
    assert close(figures(recipe.output), figures(pretrain(whole).output))


@pytest.mark.slow
def test_a_port_that_is_taken_is_no_lost_process(stage2: Recipes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        ended = run(
            ["-m", "zhuzi", "pretrain", write_recipe(stage2(output=tmp_path / "run"))],
            **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", **where},
        )
    assert ended.returncode == 1
    assert "zhuzi: the 2 processes of this run cannot reach each other (" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr


# accelerate takes FSDP for GPUs only. Here it is told that there are some; what it then does needs none.
DIVIDED = """
import os, sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from zhuzi.cli import main
from zhuzi.train import TrainCallback, log, sharding

sharding.has_gpu = lambda: True
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
begin = log.LogProgress.on_train_begin

def tell(self, state):
    kinds = sorted({type(m).__name__ for m in state.model.modules() if type(m).__name__.startswith("FSDP")})
    if os.environ["RANK"] == "0":
        print(" ".join(kinds))
    begin(self, state)

log.LogProgress.on_train_begin = tell
sys.argv = ["zhuzi", "pretrain", sys.argv[1]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_fsdp_trains_as_one_process_does(stage2: Recipes, tmp_path: Path, vocabulary: str) -> None:
    settings = {
        "base_bits": 16, "vocabulary": vocabulary, "lora": LORA, "log_every": 1, "verify_frozen": True,
        "gradient_checkpointing": True, "evaluate": {"every": 3, "share": 0.2},
    }  # fmt: skip
    alone = pretrain(stage2(output=tmp_path / "alone", **settings))
    recipe = stage2(output=tmp_path / "fsdp", fsdp=True, **settings)
    script = tmp_path / "train.py"
    script.write_text(DIVIDED)
    ended = run([*TORCHRUN, str(script), write_recipe(recipe)])
    assert ended.returncode == 0, ended.stderr
    kinds = ended.stdout.splitlines()[0].split()
    assert {"FSDPPeftModelForCausalLM", "FSDPLlamaDecoderLayer"} <= set(kinds)
    assert close(figures(recipe.output), figures(alone.output))
    ours, theirs = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (recipe.output, alone.output)
    )
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    # Its checkpoints are those of any run: one process goes on from the third step.
    _forget_the_end(recipe.output)
    report = pretrain(stage2(output=recipe.output, **settings))
    assert report.resumed_from == 3 and close(figures(report.output), figures(alone.output))


def _forget_the_end(folder: Path) -> None:
    """Leave of a finished run what one that was killed in its last steps has."""
    (folder / "checkpoints" / "checkpoint-6").rename(folder / "checkpoints" / ".checkpoint-6.partial")
    (folder / "report.json").unlink()


def test_fsdp_is_refused_where_it_would_not_divide(
    stage2: Recipes, make_model: Callable[..., Path], new_tokenizer: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for changes, why in (
        ({"base_bits": 8}, "base_bits: 8 have scales beside them"),
        ({"base_bits": 16, "deepspeed": "zero-2"}, "deepspeed or fsdp, not both"),
        ({"base_bits": 16, "optimizer": "adamw-8bit"}, "optimizer: adamw-8bit rounds in blocks"),
        ({"base_bits": 16, "samples": {"prompts": ["天"]}}, "samples are written by one process"),
        ({"base_bits": 16, "lora": {"init": "eva"}}, "eva runs the whole model on one device"),
    ):
        with pytest.raises(ValueError, match=why):
            stage2(fsdp=True, **changes)
    monkeypatch.setattr(sharding, "has_gpu", lambda: False)
    with pytest.raises(RecipeError, match="on a CPU accelerate runs DistributedDataParallel in its place"):
        pretrain(stage2(fsdp=True, base_bits=16))
    monkeypatch.setattr(sharding, "has_gpu", lambda: True)
    tied = make_model(tmp_path / "tied", rows=410, tokenizer=new_tokenizer, tie_word_embeddings=True)
    with pytest.raises(RecipeError, match=r"head and embedding of .* are one matrix"):
        pretrain(stage2(fsdp=True, base_bits=16, model=str(tied)))


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "MEGATRON_LM"])
def test_what_accelerate_was_told_elsewhere_is_not_lost(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(
        RecipeError, match=r"accelerate's configuration asks for .*; then launch with torchrun"
    ):
        pretrain(stage1())


ZERO_2 = {"stage": 2}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{", r"ds\.json: not JSON"),
        ("[]", "want an object"),
        ({}, r"zero_optimization\.stage: want 1 or 2"),
        ({"zero_optimization": {"stage": 3}}, "3 divides the frozen base too.*fsdp: true"),
        (
            {"zero_optimization": {**ZERO_2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer: check",
        ),
        (
            {"zero_optimization": ZERO_2, "bf16": {"enabled": True}},
            r"bf16\.enabled: what trains stays in fp32",
        ),
        ({"zero_optimization": ZERO_2, "train_batch_size": 8}, 'as batch_size; write "auto"'),
        ({"zero_optimization": ZERO_2, "gradient_clipping": 1.0}, 'as max_grad_norm; write "auto"'),
        ({"zero_optimization": ZERO_2, "optimizer": {"type": "Adam"}}, "optimizer: the recipe has it"),
        ({"zero_optimization": ZERO_2, "scheduler": {"type": "WarmupLR"}}, "scheduler: the recipe has it"),
    ],
    ids=str,
)
def test_what_deepspeed_cannot_do_here_is_refused(
    stage2: Recipes, tmp_path: Path, given: Any, why: str
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    with pytest.raises(RecipeError, match=why):
        pretrain(stage2(deepspeed=str(path)))


def test_auto_of_a_deepspeed_file_is_the_recipes(stage2: Recipes, tmp_path: Path) -> None:
    """The file is one that transformers' Trainer takes."""
    params = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({
        "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}, "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": params}, "steps_per_print": 100,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": True},
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }))  # fmt: skip
    recipe: PretrainRecipe = stage2(deepspeed=str(path), max_grad_norm=0.5, batch_size=8, micro_batch_size=1)
    assert deepspeed_settings(recipe, 2, hidden=4096) == {
        "gradient_clipping": 0.5, "steps_per_print": 100, "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 4096**2, "overlap_comm": True},
        "zero_allow_untested_optimizer": True,
    }  # fmt: skip


def test_a_deepspeed_file_that_is_not_there(stage2: Recipes, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.json: cannot be read .*zero-1 or zero-2"):
        pretrain(stage2(deepspeed=str(tmp_path / "absent.json")))


def test_without_deepspeed_its_extra_is_named(stage2: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'zhuzi\[deepspeed\]'"):
        pretrain(stage2(deepspeed="zero-2"))


def test_one_process_has_nothing_to_divide(
    stage2: Recipes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zhuzi.train")
    monkeypatch.setattr(sharding, "find_spec", lambda name: object())
    assert pretrain(stage2(deepspeed="zero-2", steps=1)).steps == 1
    assert "deepspeed: one process has nothing to divide" in caplog.text
