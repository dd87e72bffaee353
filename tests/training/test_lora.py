"""LoRA's layers for training: PEFT's results, with fewer passes and casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch._dynamo.utils import counters

from zhuzi.model.folder import ModelFolder
from zhuzi.train import base, layers, lora
from zhuzi.train.base import load_for_training, trainable

Recipes = Callable[..., Any]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def loaded(recipe: Any, model: Path) -> Any:
    """With B drawn, as after some steps."""
    torch.manual_seed(1)
    made = load_for_training(ModelFolder.open(model), recipe)
    for name, parameter in trainable(made):
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return made.train()


def gradients(model: Any, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    ids = torch.randint(400, (2, 24))
    with torch.autocast("cpu", dtype, dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainable(model)}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_are_pefts(
    stage2: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, bits: int, checkpointed: bool
) -> None:
    """With dropout, on all seven matrices and the head."""
    kind = getattr(torch, dtype)
    monkeypatch.setattr(base, "compute_dtype", lambda: kind)
    recipe = stage2(
        base_bits=bits, gradient_checkpointing=checkpointed, modules_to_save=["embed_tokens"],
        lora={"rank": 4, "alpha": 12, "dropout": 0.1, "targets": [*ALL, "lm_head"]},
    )  # fmt: skip
    ours, mine = gradients(loaded(recipe, model), kind)
    monkeypatch.setattr(lora, "_CLASSES", {})
    theirs, wanted = gradients(loaded(recipe, model), kind)
    exact = 1e-6 if dtype == "float32" else 1e-2
    assert ours == pytest.approx(theirs, rel=exact)
    for name, gradient in wanted.items():
        assert mine[name].dtype == torch.float32
        assert (mine[name] - gradient).norm() <= (exact if dtype == "float32" else 5e-2) * gradient.norm(), (
            name
        )


def test_a_and_b_are_cast_once_per_forward(
    stage2: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where activations are computed again; and what an optimiser wrote is seen by the next forward."""
    monkeypatch.setattr(base, "compute_dtype", lambda: torch.bfloat16)
    trained = loaded(stage2(base_bits=16, gradient_checkpointing=True), model)
    calls: list[int] = []
    own = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda a, b: (calls.append(len(a)), own(a, b)))
    first, _ = gradients(trained, torch.bfloat16)
    assert calls == [8]  # A and B of q and v in two layers
    with torch.no_grad():
        for name, parameter in trainable(trained):
            if ".lora_B." in name:
                parameter.data.mul_(50)
    second, _ = gradients(trained, torch.bfloat16)
    assert calls == [8, 8] and first != second
    ids = torch.arange(9)[None]
    with torch.autocast("cpu", torch.bfloat16):
        trained.get_base_model().forward(input_ids=ids, labels=ids)  # as PEFT before 0.21 calls it
    assert calls == [8, 8, 8]
    trained.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained(input_ids=ids)
    assert calls == [8, 8, 8]


def test_what_is_not_plain_stays_pefts(stage2: Recipes, model: Path) -> None:
    settings = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ["q_proj"], "dora": True}
    trained = loaded(stage2(lora=settings), model)
    assert not any(isinstance(m, lora._Trained) for m in trained.modules() if isinstance(m, LoraLayer))
    plain = loaded(stage2(base_bits=16), model)
    assert sum(isinstance(m, lora._Trained) for m in plain.modules()) == 4
    assert not any("cast" in name for name in plain.state_dict())


def test_what_dora_gives_is_in_16_bits(stage2: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its magnitude is fp32: so would be the states that are passed on to all that follows."""
    monkeypatch.setattr(base, "compute_dtype", lambda: torch.bfloat16)
    settings = {"rank": 4, "alpha": 16, "dropout": 0.1, "targets": ["o_proj", "down_proj"], "dora": True}
    trained = loaded(stage2(lora=settings), model)
    given = []
    for layer in [m for m in trained.modules() if isinstance(m, LoraLayer)]:
        layer.register_forward_hook(lambda module, inputs, out: given.append(out.dtype))
    _, found = gradients(trained, torch.bfloat16)
    assert given == [torch.bfloat16] * 4
    magnitudes = [gradient for name, gradient in found.items() if "magnitude" in name]
    assert magnitudes and all(g.dtype == torch.float32 and g.any() for g in magnitudes)


def test_layers_with_casts_share_their_compiled_code(
    stage2: Recipes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a step that an optimiser has changed A and B for does not compile it again."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(layers.torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(base, "compute_dtype", lambda: torch.bfloat16)
    found = {}
    for how in ("off", "on"):
        settings = {"rank": 4, "alpha": 16, "dropout": 0.0, "targets": ALL}
        trained = loaded(stage2(compile=how, lora=settings, gradient_checkpointing=True), model)
        found[how] = []
        for _ in range(4):
            found[how].append(gradients(trained, torch.bfloat16)[0])
            with torch.no_grad():
                for _, parameter in trainable(trained):
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None
    assert found["on"] == pytest.approx(found["off"], rel=1e-2)
    assert 0 < counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]
