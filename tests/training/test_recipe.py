"""Recipes: the published ones with their exact shares, and messages that name the right key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zhuzi.errors import RecipeError
from zhuzi.train.base import adapt, count_parameters
from zhuzi.train.recipe import SftRecipe, load_recipe, resolve_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}

# Recomputed from the LLaMA shapes; the published shares are 2.97, 6.06, 6.22 and 4.10 %.
PUBLISHED = {
    "llama-7b-pretrain-stage1": (49_953, 204_607_488, 6_885_486_592),
    "llama-7b-pretrain-stage2": (49_953, 417_603_584, 6_893_875_200),
    "llama-7b-sft": (49_954, 429_211_648, 6_905_483_264),
    "llama-13b-pretrain": (49_953, 542_812_160, 13_230_996_480),
    "llama-13b-sft": (49_954, None, None),
}


def test_every_recipe_is_known() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == PUBLISHED.keys()


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


def test_near_key_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = (RECIPES / "llama-7b-pretrain-stage2.yaml").read_text()
    for wrong, message in [
        (
            text.replace("learning_rate:", "learning_rat:"),
            "unknown key 'learning_rat'; did you mean 'learning_rate'?",
        ),
        (text.replace("  rank:", "  rnak:"), "unknown key 'lora.rnak'; did you mean 'rank'?"),
        (text.replace("steps: 6000", "steps: many"), "steps: .*integer.*'many'"),
        (text.replace("steps: 6000\n", ""), "steps is missing"),
        (text.replace("task: pretrain", "task: pretrian"), "want `task: pretrain` or `task: sft`"),
        (text.replace("micro_batch_size: 8", "micro_batch_size: 7"), "no multiple"),
        ("lora: [", "no YAML"),
        ("[" * 5000, "no YAML"),
        ("steps: 2026-99-99", "no YAML"),
        (text.replace("steps: 6000", "steps: true"), "steps: .*integer"),
        (text.replace("steps: 6000", "steps: 6000.0"), "steps: .*integer"),
        (text + "seed: 4294967296\n", "seed: .*less than 4294967296"),
        (re.sub("learning_rate: .*", "learning_rate: .inf", text), "learning_rate: .*finite"),
        (re.sub("learning_rate: .*", "learning_rate: .nan", text), "learning_rate: "),
        (re.sub("learning_rate: .*", "learning_rate: true", text), "learning_rate: want a number"),
        (text + "gradient_checkpointing: 1\n", "gradient_checkpointing"),
        (text + "steps: 7000\n", "line [0-9]+: 'steps' is given twice; keep one"),
        (re.sub("  rank: .*", "  rank: 8\n  rank: 9", text), "line [0-9]+: 'rank' is given twice"),
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


def test_8_bit_base_without_adapters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = (RECIPES / "llama-7b-pretrain-stage1.yaml").read_text()
    path.write_text(text.replace("base_bits: 16", "base_bits: 8"))
    with pytest.raises(RecipeError, match="refuses an 8-bit base without adapters"):
        load_recipe(path)


def test_recipe_of_another_task() -> None:
    with pytest.raises(RecipeError, match="run it with `zhuzi pretrain`"):
        resolve_recipe(RECIPES / "llama-7b-pretrain-stage1.yaml", SftRecipe)
