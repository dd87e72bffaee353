"""NEFTune: noise on the embeddings while tuning, sized by the length of each record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zhuzi import sft
from zhuzi.errors import RecipeError
from zhuzi.model.folder import ModelFolder
from zhuzi.train import noise
from zhuzi.train.base import load_for_training
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.recipe_file import load_recipe


@pytest.fixture
def tuning(stage2: Callable[..., Any], instructions: Path) -> Callable[..., SftRecipe]:
    def make(**changes: Any) -> SftRecipe:
        settings = stage2().model_dump(exclude={"corpus", "separate_documents"})
        settings |= {"task": "sft", "instructions": instructions, "sequence_length": 128, **changes}
        return SftRecipe.model_validate(settings)

    return make


def test_noise_is_bounded_by_the_length_and_only_in_training(
    tuning: Callable[..., SftRecipe], model: Path
) -> None:
    held = load_for_training(ModelFolder.open(model), tuning(neftune=5.0, base_bits=16))
    seen: list[torch.Tensor] = []
    first = next(module for module in held.modules() if type(module).__name__ == "LlamaDecoderLayer")
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    ids = torch.randint(400, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    clean = held.get_input_embeddings()(ids).detach()
    held.train()(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    apart = (seen[-1] - clean).abs()
    for row, length in ((0, 16), (1, 8)):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.9 * bound < apart[row, :8].max() <= bound * 1.0001
    held.eval()
    with torch.no_grad():
        held(input_ids=ids, attention_mask=mask)
    assert torch.equal(seen[-1], clean)
    with torch.no_grad():
        held.train()(input_ids=ids, attention_mask=mask)
    assert torch.equal(seen[-1], clean)


def test_records_of_a_block_have_their_own_length() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0]])
    found = noise.lengths(positions, {"position_ids": positions})
    assert found.tolist() == [[3, 3, 3, 2, 2, 1, 1]]
    assert noise.lengths(positions, {}).tolist() == [[7.0] * 7]


@pytest.mark.parametrize("packing", [False, True])
def test_tuning_with_noise(tuning: Callable[..., SftRecipe], tmp_path: Path, packing: bool) -> None:
    settings: dict[str, Any] = {
        "packing": packing,
        "vocabulary": "new-rows",
        "batch_size": 2,
        "micro_batch_size": 1,
    }
    plain = sft(tuning(output=tmp_path / "plain", **settings))
    noisy = sft(tuning(output=tmp_path / "noisy", neftune=0.1, **settings))
    assert noisy.losses != plain.losses
    for (_, there), (_, here) in zip(plain.losses, noisy.losses, strict=True):
        assert here == pytest.approx(there, rel=0.1)


def test_keys_of_tuning_are_named_as_such(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "recipes" / "llama-7b-pretrain-stage2.yaml").read_text()
    for key, value in (("packing", "true"), ("neftune", "5")):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"{text}\n{key}: {value}\n")
        with pytest.raises(RecipeError, match=f"unknown key '{key}': it belongs to task: sft"):
            load_recipe(path)
