"""Both stages and tuning: what trains, what stays, what comes out, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import write_corpus
from transformers import AutoModelForCausalLM

from zhuzi import Tokenizer, merge_adapter, pretrain, sft
from zhuzi.errors import MismatchError, OutputExistsError, RecipeError, TrainingError
from zhuzi.model.folder import EMBEDDING, ModelFolder
from zhuzi.train import TrainCallback, TrainState, plan_run
from zhuzi.train.origins import DataOrigin
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.run import Run
from zhuzi.train.stage import _require_frozen, _smaller

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

    assert [step for step, _ in report.losses] == [2, 4, 6]
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
    settings = stage2(output=stage2().output).model_dump(exclude={"corpus", "separate_documents"})
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


class Touch(TrainCallback):
    """Changes a frozen tensor."""

    def on_step_end(self, state: TrainState) -> None:
        state.model.model.norm.weight.data += 1


def test_a_frozen_tensor_that_moved_is_named(stage1: Recipes) -> None:
    with pytest.raises(TrainingError, match=r"frozen: model\.norm\.weight"):
        pretrain(stage1(verify_frozen=True), callbacks=[Touch()])


def test_tensors_that_come_or_go_count_as_changed() -> None:
    assert _require_frozen({"a": "1", "t": "2"}, {"a": "1", "t": "3"}, ["t"]) == 1
    with pytest.raises(TrainingError, match="frozen: b"):
        _require_frozen({"a": "1", "b": "2"}, {"a": "1"}, [])


REFUSED = """
import json, sys
from zhuzi.errors import ZhuziError
from zhuzi.train import load_recipe, pretrain, sft

for recipe in json.loads(sys.argv[1]):
    try:
        (sft if recipe.endswith("sft.yaml") else pretrain)(recipe)
    except ZhuziError as error:
        print(error)
heavy = {"torch", "transformers", "peft", "accelerate"} & set(sys.modules)
assert not heavy, heavy
"""


def test_refusals_come_before_torch(stage1: Recipes, model: Path, base_model: Path, tmp_path: Path) -> None:
    """What needs neither weights nor the whole of the data is said before the seconds torch takes to load."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    (tmp_path / "bad.json").write_text('[{"instruction": "a"}]')
    good = stage1().model_dump(mode="json")
    tuning = {key: value for key, value in good.items() if key not in ("corpus", "separate_documents")}
    tuning |= {"task": "sft", "instructions": str(tmp_path / "bad.json")}
    recipes = {
        "key": {**good, "stepps": 3},
        "model": {**good, "model": str(tmp_path / "absent")},
        "tokenizer": {**good, "model": str(base_model)},
        "corpus": {**good, "corpus": str(tmp_path)},
        "corpus-file": {**good, "corpus": str(tmp_path / "bad.json")},
        "output": {**good, "output": str(tmp_path / "taken")},
        "target": {**good, "lora": {"targets": ["query"]}},
        "sft": tuning,
    }
    paths = [str(tmp_path / "absent.yaml")]
    for name, recipe in recipes.items():
        paths.append(str(tmp_path / f"{name}.yaml"))
        Path(paths[-1]).write_text(json.dumps(recipe))  # JSON is YAML
    ended = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(paths)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    messages = [
        "absent.yaml: cannot be read", "unknown key 'stepps'", "absent: no such folder", "encoded by another",
        "holds no manifest.json", "bad.json: a file, no encoded corpus; encode it first",
        "already holds something", "no matrix 'query'", "has no 'output'",
    ]  # fmt: skip
    said = ended.stdout.splitlines()
    assert len(said) == len(messages), said
    for line, message in zip(said, messages, strict=True):
        assert message in line


def test_a_start_says_what_it_does(stage1: Recipes, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pretrain(stage1(steps=1))
    assert (
        f"pretrain: embed_tokens of {model} (410 rows) on {stage1().corpus[0]}, " in caplog.text
        and "1 step of 4 sequences of 16 tokens" in caplog.text
    )
    assert "step 1 of 1: loss" in caplog.text


def test_mismatches(
    stage1: Recipes, model: Path, base_model: Path, old_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match="encoded by another tokenizer"):
        pretrain(stage1(model=str(base_model)))
    shrunk = Path(shutil.copytree(base_model, tmp_path / "shrunk"))
    for file in model.glob("*token*"):
        shutil.copy(file, shrunk)
    with pytest.raises(MismatchError, match=r"[0-9]+ ids, its embedding 400 rows"):
        pretrain(stage1(model=str(shrunk)))
    with pytest.raises(RecipeError, match="no matrix 'query'"):
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
    with pytest.raises(
        OutputExistsError, match=r"steps .* longer, train .*/model in another run, as this one has ended"
    ):
        pretrain(stage1(steps=2))
    assert pretrain(stage1(steps=1, seed=7), overwrite=True).losses != first.losses
    with pytest.raises(OutputExistsError, match="which is read here"):
        pretrain(stage1(steps=1, model=str(first.result)), overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    for overwrite, message in ((False, "already holds something"), (True, "was not written by zhuzi")):
        with pytest.raises(OutputExistsError, match=message):
            pretrain(stage1(output=other), overwrite=overwrite)
    assert (other / "mine.txt").read_text() == "mine"
    with pytest.raises(OutputExistsError, match="the current folder"):
        pretrain(stage1(output="."), overwrite=True)


def test_an_output_that_holds_the_recipe(stage1: Recipes) -> None:
    first = pretrain(stage1(steps=1))
    path = first.output / "recipe.yaml"
    path.write_text(stage1(steps=1, seed=7).model_dump_json())  # JSON is YAML
    with pytest.raises(OutputExistsError, match=r"recipe\.yaml, which is read here"):
        pretrain(path, overwrite=True)
    assert first.result.is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"targets": ["q_proj", "query"]}}, "no matrix 'query'"),
        ({"lora": {"targets": ["self_attn"]}}, "no matrix 'self_attn'"),
        ({"sequence_length": 257}, "exceeds the 256 positions .*; write 256 or less"),
        ({"micro_batch_size": None, "batch_size": 1}, "not a multiple of micro_batch_size 0 x 2 devices"),
        ({"micro_batch_size": 4, "batch_size": 4}, "not a multiple of micro_batch_size 4 x 2 devices"),
    ],
)
def test_a_recipe_that_cannot_be_leaves_the_old_run(
    stage1: Recipes, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    output = stage1().output
    output.mkdir()
    (output / "run.json").write_text('{"recipe": {}}')
    if "devices" in message:
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=message):
        pretrain(stage1(**changes), overwrite=True)
    assert [path.name for path in output.iterdir()] == ["run.json"]


class Fail(TrainCallback):
    """Raises after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, state: TrainState) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


def test_what_comes_to_the_output_while_weights_are_read_stays(stage1: Recipes, model: Path) -> None:
    recipe, folder = stage1(), ModelFolder.open(model)
    facts = Run.prepare(recipe, folder, lambda: DataOrigin("ab", ()), overwrite=True)
    recipe.output.mkdir(parents=True)
    (recipe.output / "precious").write_text("theirs")
    run = Run.open(recipe, folder, facts, overwrite=True)
    with pytest.raises(OutputExistsError, match="was not written by zhuzi"), run:
        pass
    assert (recipe.output / "precious").read_text() == "theirs"


def test_a_failed_overwrite_gives_the_old_run_back(stage1: Recipes) -> None:
    first = pretrain(stage1(steps=1))
    other = stage1(steps=6, seed=7)
    with pytest.raises(KeyboardInterrupt):
        pretrain(other, overwrite=True, callbacks=[Fail(2)])
    assert pretrain(stage1(steps=1)) == first
    assert [path.name for path in first.output.parent.iterdir()] == ["run"]
    # From its first checkpoint on (step 3) the new run is worth more than the old one.
    with pytest.raises(KeyboardInterrupt):
        pretrain(other, overwrite=True, callbacks=[Fail(4)])
    assert [path.name for path in first.output.parent.iterdir()] == ["run"]
    assert pretrain(other).resumed_from == 3


def test_a_killed_overwrite_keeps_the_old_run(stage1: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pretrain(stage1(steps=1))
    aside = first.output.with_name(".run.replaced")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_take_back", lambda run: None)  # as after SIGKILL
        pretrain(stage1(seed=7), overwrite=True, callbacks=[Fail(2)])
    assert (aside / "report.json").is_file()
    with pytest.raises(KeyboardInterrupt):
        pretrain(stage1(seed=8), overwrite=True, callbacks=[Fail(2)])
    assert pretrain(stage1(steps=1)) == first and not aside.exists()


def test_two_processes_on_one_output(stage1: Recipes) -> None:
    recipe = stage1(steps=1)

    class Second(TrainCallback):
        def on_train_begin(self, state: TrainState) -> None:
            # A lock of flock belongs to the open file, so the same process shows what another would see.
            for overwrite in (False, True):
                with pytest.raises(OutputExistsError, match="run: another process trains there"):
                    pretrain(recipe, overwrite=overwrite)

    first = pretrain(recipe, callbacks=[Second()])
    assert (first.output / ".lock").is_file()
    assert pretrain(recipe) == first  # and the lock is free again
    # Of torchrun's processes, the first alone takes it.
    assert pretrain(recipe, overwrite=True, callbacks=[Second()]).steps == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_that_begin_at_once(
    stage1: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The first run comes into place while the second makes its own: it is not moved aside."""
    recipe, folder = stage1(), ModelFolder.open(model)
    with ExitStack() as held:

        def write(*args: Any) -> None:
            monkeypatch.undo()
            held.enter_context(Run.open(recipe, folder, {"recipe": {}}, overwrite=False))
            (recipe.output / "first").touch()

        monkeypatch.setattr("zhuzi.train.run.replace_json", write)
        second = Run.open(recipe, folder, {"recipe": {}}, overwrite=overwrite)
        # Overwriting, it was asked to replace what stood there, which was nothing.
        with pytest.raises(OutputExistsError, match="another process put something there"), second:
            pass
        assert (recipe.output / "first").is_file()
    assert [path.name for path in recipe.output.parent.iterdir()] == ["run"]


def test_of_torchruns_processes_the_first_alone_locks(
    stage1: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = stage1(), ModelFolder.open(model)
    with Run.open(recipe, folder, {"recipe": {}}, overwrite=False):
        monkeypatch.setenv("RANK", "1")
        with Run.open(recipe, folder, {"recipe": {}}, overwrite=True) as second:
            assert second.finished(overwrite=True) is None
        assert (recipe.output / "run.json").is_file()
        monkeypatch.delenv("RANK")
    with Run.open(recipe, folder, {"recipe": {}}, overwrite=False), pytest.raises(MismatchError):
        raise MismatchError("the lock is free again, and a run that goes on is left where it is")
    assert (recipe.output / "run.json").is_file()


def test_processes_that_check_the_same_say_it_once(tmp_path: Path) -> None:
    for number, said in (("0", ["zhuzi: absent.yaml: cannot be read"]), ("1", [])):
        ended = subprocess.run(
            [sys.executable, "-m", "zhuzi", "pretrain", "absent.yaml"],
            env={**os.environ, "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": "2"},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 1
        assert [line.partition(" (")[0] for line in ended.stderr.splitlines()] == said


def test_tied_head_alone_without_lora(
    make_model: Callable[..., Path], stage1: Recipes, new_tokenizer: Path, tmp_path: Path
) -> None:
    tied = make_model(tmp_path / "tied", rows=410, tokenizer=new_tokenizer, tie_word_embeddings=True)
    report = pretrain(stage1(model=str(tied), modules_to_save=["lm_head"], steps=1))
    assert report.trainable_names == [EMBEDDING]


def test_report_names_the_device(stage1: Recipes) -> None:
    report = pretrain(stage1(steps=1))
    if torch.cuda.is_available():
        assert report.device.startswith("cuda:0 ") and report.compute_dtype in ("bfloat16", "float16")
    else:
        assert (report.device, report.compute_dtype) == ("cpu", "float32")
    assert pretrain(stage1(steps=1)) == report


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def test_transformers_callbacks_are_refused_by_the_name_of_ours(stage1: Recipes) -> None:
    from transformers import TrainerCallback

    with pytest.raises(TypeError, match="subclass TrainCallback"):
        pretrain(stage1(), callbacks=[TrainerCallback()])  # type: ignore[list-item]


@pytest.mark.parametrize("lora", [None, {"rank": 2, "targets": ["q_proj"]}])
def test_an_8_bit_base_carries_every_stage(stage1: Recipes, model: Path, lora: Any) -> None:
    """Stage 1 too, whose result is the stored model, not the quantised one."""
    report = pretrain(stage1(base_bits=8, lora=lora, verify_frozen=True))
    assert report.losses[-1][1] < report.losses[0][1]
    if lora is None:
        base, made = ModelFolder.open(model), ModelFolder.open(report.result)
        assert [n for n in base.tensors if not torch.equal(base.read(n), made.read(n))] == [EMBEDDING]


def test_losses_over_8_bits_are_near_those_over_16(stage2: Recipes, tmp_path: Path) -> None:
    losses = []
    for bits in (8, 16):
        report = pretrain(stage2(base_bits=bits, steps=50, log_every=1, output=tmp_path / str(bits)))
        losses.append([loss for _, loss in report.losses])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw-8bit"])
def test_8_bit_optimisers_train_and_resume(stage2: Recipes, optimizer: str) -> None:
    recipe = stage2(optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, callbacks=[Fail(4)])
    report = pretrain(recipe)
    assert report.resumed_from == 3 and report.losses[-1][1] < report.losses[0][1]


def test_schedules_and_a_rate_of_its_own_for_embeddings(stage1: Recipes, tmp_path: Path) -> None:
    def rates(schedule: str) -> list[float]:
        report = pretrain(
            stage1(schedule=schedule, steps=10, log_every=1, warmup=0.2, output=tmp_path / schedule)
        )
        return [rate / 1e-2 for _, rate in report.learning_rates]

    assert rates("constant") == pytest.approx([0, 0.5, *[1] * 8])
    assert rates("linear") == pytest.approx([0, 0.5, *[1 - i / 8 for i in range(8)]])
    assert rates("wsd") == pytest.approx([0, 0.5, *[1] * 8])
    cosine = rates("cosine")
    assert cosine[2] == 1 and cosine[6] == pytest.approx(0.5)
    slow = pretrain(stage1(embedding_learning_rate=1e-9, output=tmp_path / "slow"))
    assert slow.losses[-1][1] == pytest.approx(slow.losses[0][1], rel=0.1)


def test_gradients_are_clipped_unless_the_norm_is_0(
    stage1: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = []
    for norm in (0, 1e-6):
        # What accelerate's launcher may set changes nothing: micro batches are counted here.
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4" if norm else "1")
        run = pretrain(stage1(max_grad_norm=norm, output=tmp_path / str(norm), log_every=1)).output
        logs.append([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()])
    assert logs[0][0]["gradient_norm"] == logs[1][0]["gradient_norm"] > 1e-6  # before clipping
    assert logs[0][-1]["tokens_per_second"] > 0


def test_a_4_bit_base_trains_and_merges(stage2: Recipes, model: Path, tmp_path: Path) -> None:
    losses = []
    for bits in (4, 16):
        recipe = stage2(
            base_bits=bits, steps=20, log_every=1, output=tmp_path / str(bits), verify_frozen=True
        )
        losses.append([loss for _, loss in pretrain(recipe).losses])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    merge_adapter(model, tmp_path / "4" / "adapter", tmp_path / "merged")


@pytest.mark.parametrize(
    "settings",
    [{"rslora": True}, {"dora": True}, {"init": "gaussian"}, {"init": "orthogonal"}, {"init": "eva"}],
    ids=str,
)
def test_kinds_of_lora_are_pefts(
    stage2: Recipes, model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """What trained gives the logits that plain PEFT gives with what was saved."""
    lora = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"], **settings}
    recipe = stage2(base_bits=16, lora=lora)
    held: list[torch.Tensor] = []
    ids = torch.arange(16, 64)[None]

    class Keep(TrainCallback):
        def on_train_end(self, state: TrainState) -> None:
            with torch.no_grad():
                held.append(state.model.eval()(input_ids=ids).logits)

    report = pretrain(recipe, callbacks=[Keep()])
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, report.result).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, held[0], rtol=1e-5, atol=1e-5)
    merge_adapter(model, report.result, tmp_path / "merged")


def test_inits_that_change_the_base_are_refused(stage2: Recipes) -> None:
    with pytest.raises(ValueError, match="changes the base's own weights"):
        stage2(lora={"init": "pissa_niter_16"})


def test_out_of_memory_says_what_would_need_less(stage2: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("zhuzi.train.stage.load_for_training", full)
    with pytest.raises(
        TrainingError, match="out of memory; write gradient_checkpointing: true, then"
    ) as raised:
        pretrain(stage2(micro_batch_size=2))
    for remedy in ("micro_batch_size: 1", "vocabulary: new-rows", "base_bits: 4", "paged-adamw-8bit"):
        assert remedy in str(raised.value)


def test_on_a_gpu_it_says_what_would_fit(
    stage2: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = stage2(optimizer="adamw", gradient_checkpointing=True, batch_size=2, micro_batch_size=1)
    plan = plan_run(recipe, gpus=1)
    memory = SimpleNamespace(total_memory=plan.needed - 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert _smaller(recipe, ModelFolder.open(model)) == (
        "write optimizer: paged-adamw-8bit into the recipe; with that its plan fits"
    )
