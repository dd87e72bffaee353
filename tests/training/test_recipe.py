"""Recipes: the published ones with their exact shares, and messages that name the right key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from zhuzi.cli import cli
from zhuzi.errors import OutputExistsError, RecipeError
from zhuzi.train import sft
from zhuzi.train.base import adapt, count_parameters
from zhuzi.train.plan import bytes_of, plan_run
from zhuzi.train.recipe import (
    EvaluateRecipe,
    LoraRecipe,
    PretrainRecipe,
    SamplesRecipe,
    SftRecipe,
)
from zhuzi.train.recipe_file import as_yaml, load_recipe, resolve_recipe
from zhuzi.train.shipped import shipped_recipe
from zhuzi.train.stages import load_stages

RECIPES = Path(__file__).parents[2] / "recipes"
PAGE = RECIPES.parent / "docs" / "training.md"
SIZES = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40), "33b": (6656, 17920, 60, 52)}

# Recomputed from the LLaMA shapes; the published shares are 2.97, 6.06, 6.22 and 4.10 %.
PUBLISHED = {
    "llama-7b-pretrain-stage1": (49_953, 204_607_488, 6_885_486_592),
    "llama-7b-pretrain-stage2": (49_953, 417_603_584, 6_893_875_200),
    "llama-7b-sft": (49_954, 429_211_648, 6_905_483_264),
    "llama-13b-pretrain": (49_953, 542_812_160, 13_230_996_480),
    "llama-13b-sft": (49_954, None, None),
    "llama-33b-pretrain": (49_953, 725_922_816, 32_828_882_432),
    "llama-33b-sft": (49_954, 725_936_128, 32_828_895_744),
}
STAGES = {"llama-7b-pretrain": ["llama-7b-pretrain-stage1", "llama-7b-pretrain-stage2"]}
#: One GPU, and its memory.
SINGLE = {
    "llama-7b-pretrain-12gb": "12GB",
    "llama-7b-sft-12gb": "12GB",
    "llama-7b-pretrain-24gb": "24GB",
    "llama-7b-sft-24gb": "24GB",
    "llama-13b-pretrain-80gb": "80GB",
    "llama-13b-sft-80gb": "80GB",
}


def test_every_recipe_is_known() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*PUBLISHED, *SINGLE, *STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_recipes_of_several_stages_are_those_of_each(name: str) -> None:
    for stage, alone in zip(load_stages(name), STAGES[name], strict=True):
        changes = {key: getattr(stage.recipe, key) for key in ("model", "output")}
        assert load_recipe(alone).model_copy(update=changes) == stage.recipe


@pytest.mark.parametrize("name", SINGLE)
def test_recipes_of_one_gpu_fit_it(name: str) -> None:
    recipe = load_recipe(name)
    assert plan_run(recipe, gpus=1, gpu_memory=bytes_of(SINGLE[name])).fits
    assert SINGLE[name].removesuffix("GB") + " GB" in shipped_recipe(name).about


@pytest.mark.parametrize("name", [*PUBLISHED, *SINGLE])
def test_recipes_come_with_the_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert name in run(cli, ["recipes", "list"]).output
    text = (RECIPES / f"{name}.yaml").read_text("utf-8")
    assert run(cli, ["recipes", "show", name]).output == text
    by_name = load_recipe(name)
    assert run(cli, ["recipes", "copy", name]).exit_code == 0
    copied = tmp_path / f"{name}.yaml"
    assert copied.read_text("utf-8") == text and load_recipe(copied) == by_name
    assert isinstance(run(cli, ["recipes", "copy", name]).exception, OutputExistsError)
    (tmp_path / name).write_text("task: chat")  # a file comes first
    with pytest.raises(RecipeError, match="task is 'chat'"):
        load_recipe(name)
    assert run(cli, ["model", "plan", copied.name, "--gpus", "1"]).exit_code == 0


def test_a_name_of_no_recipe() -> None:
    with pytest.raises(RecipeError, match="llama-7b-stf: no recipe of this name; did you mean llama-7b-sft"):
        shipped_recipe("llama-7b-stf")
    for name in ("llama-7b-pretrian", "llama-7b-pretrian.yaml"):
        done = CliRunner().invoke(cli, ["pretrain", name])
        assert "did you mean llama-7b-pretrain? Else name a recipe's file" in str(done.exception)
    with pytest.raises(RecipeError, match="one of `zhuzi recipes list`"):
        load_recipe("llama-7b-stf")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe("recipes-of-mine/llama-7b-sft")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shares(name: str) -> None:
    rows, trainable, total = PUBLISHED[name]
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    hidden, inner, layers, heads = SIZES[name.split("-")[1]]
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    with torch.device("meta"):
        model = adapt(LlamaForCausalLM(config), recipe, tied=False)
    if trainable is not None:
        assert count_parameters(model) == (trainable, total)


def test_what_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    """Before the model, which is not there, is looked for."""
    text = (RECIPES / "llama-7b-sft.yaml").read_text()
    path, pipe = tmp_path / "recipe.yaml", tmp_path / "records.jsonl"
    os.mkfifo(pipe)
    for inputs, what in (('["-"]', "standard input"), ('"-"', "standard input"), (f"[{pipe}]", "a pipe")):
        path.write_text(re.sub("instructions: .*", f"instructions: {inputs}", text))
        with pytest.raises(RecipeError, match=f"instructions.*: {what} cannot be read again.*to a file"):
            sft(path)


def test_near_key_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = (RECIPES / "llama-7b-pretrain-stage2.yaml").read_text()
    for wrong, message in [
        (
            text.replace("learning_rate:", "learning_rat:"),
            "unknown key 'learning_rat'; did you mean 'learning_rate'?",
        ),
        (text.replace("  rank:", "  rnak:"), "unknown key 'lora.rnak'; did you mean 'rank'?"),
        (text.replace("steps: 6000", "steps: many"), "steps: want a whole number.*'many'"),
        (text.replace("steps: 6000\n", ""), "steps is missing"),
        (text.replace("task: pretrain", "task: pretrian"), "want `task: pretrain` or `task: sft`"),
        (text.replace("micro_batch_size: 8", "micro_batch_size: 7"), "not a multiple"),
        ("lora: [", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("steps: 2026-99-99", "not YAML"),
        (text.replace("steps: 6000", "steps: true"), "steps: want a whole number"),
        (text.replace("steps: 6000", "steps: 6000.0"), "steps: want a whole number"),
        (text + "seed: 4294967296\n", "seed: want less than 4294967296"),
        (re.sub("learning_rate: .*", "learning_rate: .inf", text), "learning_rate: want a finite number"),
        (re.sub("learning_rate: .*", "learning_rate: .nan", text), "learning_rate: "),
        (re.sub("learning_rate: .*", "learning_rate: true", text), "learning_rate: want a number"),
        (text + "gradient_checkpointing: 1\n", "gradient_checkpointing"),
        (text + "steps: 7000\n", "line [0-9]+: 'steps' is given twice; keep one"),
        (re.sub("  rank: .*", "  rank: 8\n  rank: 9", text), "line [0-9]+: 'rank' is given twice"),
        (
            re.sub("modules_to_save: .*", "modules_to_save: []\nembedding_learning_rate: 0.1", text),
            "embedding_learning_rate needs modules_to_save",
        ),
        (re.sub("modules_to_save: .*", "modules_to_save: [lm_head, lm_head]", text), "lm_head named twice"),
        (re.sub("  targets: .*", "  targets: [q_proj, q_proj]", text), "targets: q_proj named twice"),
        (re.sub("  targets: .*", "  targets: [embed_tokens]", text), "name embed_tokens in modules_to_save"),
        ("- 1", "key: value"),
    ]:
        path.write_text(wrong)
        with pytest.raises(RecipeError, match=message) as raised:
            load_recipe(path)
        assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", "'10'", "want a whole number (it is '10')"),
        ("learning_rate", "fast", "want a number (it is 'fast')"),
        ("learning_rate", "-0.1", "want more than 0 (it is -0.1)"),
        ("warmup", "1", "want less than 1 (it is 1)"),
        ("verify_frozen", "'no'", "want true or false (it is 'no')"),
        ("base_bits", "5", "want 4, 8 or 16 (it is 5)"),
        ("model", "7", "want text; put it in quotes (it is 7)"),
        ("output", "7", "want a path (it is 7)"),
        ("modules_to_save", "lm_head", "want a list, as in [a, b] (it is 'lm_head')"),
        ("lora", "true", "want keys of its own, as in {rank: 8, alpha: 32} (it is True)"),
        ("lora", "{rank: 3, init: orthogonal}", "orthogonal needs an even rank, not 3"),
        ("evaluate", "true", "want keys of its own, as in {every: 500, share: 0.01} (it is True)"),
        ("epochs", "2", "give steps or epochs, not both"),
        ("steps", "null", "steps is missing; give it, or epochs"),
        ("weight_decay", "null", "want a number (it is null)"),
        ("samples", "{every: 3}", "samples.prompts is missing"),
        ("rope", "linear:4", "unknown key 'rope'; here it is a setting of the model: `zhuzi model extend"),
        ("load_in_8bit", "true", "unknown key 'load_in_8bit'; here it is `base_bits: 8`"),
        ("lora", "{r: 8}", "unknown key 'lora.r'; here it is `lora: {rank: N}`"),
        ("samples", "{prompts: []}", "samples.prompts: want one or more"),
        ("trackers", "[wandb, tensorbord]", "trackers.1: want 'tensorboard', 'wandb', 'swanlab' or 'mlflow'"),
        ("trackers", "[wandb, wandb]", "wandb named twice"),
        ("evaluate", "{evry: 3}", "unknown key 'evaluate.evry'; did you mean 'every'?"),
        ("evaluate", "{share: 0}", "evaluate: nothing to measure: give a share of the data, or texts"),
        (
            "evaluate",
            "{share: 0, texts: [a.txt], patience: 2}",
            "patience waits for a lower loss of held-out",
        ),
        ("betas", "[0.9, 1]", "betas.1: want less than 1 (it is 1)"),
        ("betas", "[0.9, 0.99, 0.999]", "betas: want no more than 2"),
        ("instructions", "[]", "want one or more (it is [])"),
        ("corpus", "x", "unknown key 'corpus'"),
        ("output", "$NO_SUCH/x", "$NO_SUCH/x: the variable NO_SUCH is not set; set it, or"),
        ("model", "~nobody.here/x", "no user 'nobody.here'; write ./~nobody.here/x for a path of that name"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    text = (RECIPES / "llama-7b-sft.yaml").read_text()
    text = re.sub(rf"^{key}:.*\n( .*\n)*", "", text, flags=re.MULTILINE)
    path.write_text(f"{text}{key}: {value}\n")
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    assert message in str(raised.value) and "nput" not in str(raised.value)


def test_paths_are_expanded_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$x.json").touch()  # a path that is there is meant as it is written
    path = tmp_path / "recipe.yaml"
    text = (RECIPES / "llama-7b-sft.yaml").read_text()
    text = re.sub(r"^(model|output|instructions):.*\n", "", text, flags=re.MULTILINE)
    path.write_text(f"{text}model: ~/llama\noutput: $DATA/run\ninstructions: ['${{DATA}}/a.json', $x.json]\n")
    recipe = load_recipe(path)
    assert recipe.model == str(tmp_path / "home" / "llama") and recipe.output == tmp_path / "data" / "run"
    assert recipe.data == (tmp_path / "data" / "a.json", Path("$x.json"))
    assert SftRecipe.model_validate({**recipe.model_dump(), "model": "owner/name"}).model == "owner/name"


def test_recipe_of_another_task() -> None:
    with pytest.raises(RecipeError, match="run it with `zhuzi pretrain`"):
        resolve_recipe(RECIPES / "llama-7b-pretrain-stage1.yaml", SftRecipe)


def _keys_of_the_page() -> tuple[set[str], dict[str, set[str]]]:
    """The recipe's keys in the table of docs/training.md, and the keys inside of them."""
    table = PAGE.read_text(encoding="utf-8").split("## Recipes")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    inner = {cells[1].strip(" `"): set(re.findall(r"`([a-z_]+)`", cells[2])) for cells in rows}
    return {key for cells in rows for key in re.findall(r"`([a-z_]+)`", cells[1])}, inner


def test_the_page_lists_every_key_of_a_recipe_and_no_other() -> None:
    keys, inner = _keys_of_the_page()
    assert keys == PretrainRecipe.model_fields.keys() | SftRecipe.model_fields.keys()
    for name, kind in (("lora", LoraRecipe), ("evaluate", EvaluateRecipe), ("samples", SamplesRecipe)):
        values = {value for field in kind.model_fields.values() for value in get_args(field.annotation)}
        assert inner[name] - values - {"null"} == kind.model_fields.keys(), name


@pytest.mark.parametrize(
    "key", [k for k, field in SftRecipe.model_fields.items() if get_origin(field.annotation) is Literal]
)
def test_the_page_names_the_values_of_a_key(key: str) -> None:
    table = PAGE.read_text(encoding="utf-8").split("## Recipes")[1].split("\n## ")[0]
    row = next(line for line in table.splitlines() if re.match(rf"\|[^|]*`{key}`", line))
    for value in get_args(SftRecipe.model_fields[key].annotation):
        assert re.search(rf"\b{value}\b", row), (key, value)


def test_settings_are_put_over_a_recipe(tmp_path: Path) -> None:
    path = RECIPES / "llama-7b-pretrain-stage2.yaml"
    recipe = load_recipe(
        path,
        ["steps=10", "lora.rank=16", "lora.targets=[q_proj, v_proj]", "samples.prompts=甲", "compile=off"],
    )
    assert (recipe.steps, recipe.compile) == (10, "off") and recipe.lora is not None
    assert (recipe.lora.rank, recipe.lora.targets) == (16, ("q_proj", "v_proj"))
    assert recipe.lora.alpha == 32 and recipe.samples is not None and recipe.samples.prompts == ("甲",)
    assert load_recipe(path, ["lora=null"]).lora is None
    for setting, message in (
        ("lora.rnk=16", r"unknown key 'lora\.rnk'; did you mean 'rank'"),
        ("steps", "want key=value, as in"),
        ("lora.=1", "want key=value"),
        ("steps=many", "steps: want a whole number"),
        ("betas=[0.9", "its value is not YAML"),
        ("lora={rank: 1, rank: 2}", "its value is not YAML"),
        ("task=chat", "with task=chat: task is 'chat'"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(path, [setting])
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(recipe), "utf-8")
    assert load_recipe(again) == recipe
