"""The chunked loss and the 8-bit product give the plain ones' numbers, and keep less."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from torch.nn import functional

from zhuzi.model.folder import ModelFolder
from zhuzi.train import int8, loss
from zhuzi.train.base import load_for_training, trainable
from zhuzi.train.data import IGNORED
from zhuzi.train.loss import Head, next_token_loss

ROWS, WIDTH, NEW = 977, 32, 300


def _plain(
    hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, count: int | None
) -> torch.Tensor:
    logits = (hidden @ weight.T).float()[:, :-1].reshape(-1, len(weight))
    total = functional.cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="sum")
    return total / (count or (labels[:, 1:] != IGNORED).sum())


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, labels of which some or all of a row are ignored, and the head."""
    made = torch.Generator().manual_seed(0)
    labels = torch.randint(ROWS, (3, 50), generator=made)
    labels[0, :20] = IGNORED
    labels[2] = IGNORED
    hidden, weight = (torch.randn(*shape, WIDTH, generator=made) for shape in ((3, 50), (ROWS,)))
    return hidden, labels, weight * 0.2


@pytest.mark.parametrize("chunk", [4, 7, 1000])
@pytest.mark.parametrize("count", [None, 1000])
@pytest.mark.parametrize("parts", [1, 2])
def test_loss_and_gradients_are_the_plain_ones(
    batch: tuple[torch.Tensor, ...],
    chunk: int,
    count: int | None,
    parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * ROWS * chunk)
    hidden, labels, weight = batch
    plain_hidden, plain_weight = (t.clone().requires_grad_() for t in (hidden, weight))
    plain = _plain(plain_hidden, labels, plain_weight, count)
    (3 * plain).backward()

    ours_hidden, trained = hidden.clone().requires_grad_(), weight.clone()
    head = Head(trained) if parts == 1 else Head(trained[:-NEW], trained[-NEW:].clone())
    rows = (head.weight if head.rows is None else head.rows).requires_grad_()
    ours = next_token_loss(ours_hidden, labels, head, count)
    (3 * ours).backward()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    assert plain_hidden.grad is not None and plain_weight.grad is not None
    for gradient, wanted in (
        (ours_hidden.grad, plain_hidden.grad),
        (rows.grad, plain_weight.grad[-len(rows) :]),
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_no_gradient_is_made_where_none_is_wanted(batch: tuple[torch.Tensor, ...]) -> None:
    hidden, labels, weight = batch
    assert not next_token_loss(hidden, labels, Head(weight)).requires_grad
    frozen = next_token_loss(hidden.clone().requires_grad_(), labels, Head(weight))
    frozen.backward()
    assert weight.grad is None


def test_a_batch_without_labels_is_like_the_plain_one(batch: tuple[torch.Tensor, ...]) -> None:
    """Nothing over nothing is no number; a share of a larger step is zero."""
    hidden, labels, weight = batch
    none = torch.full_like(labels, IGNORED)
    assert torch.isnan(next_token_loss(hidden, none, Head(weight)))
    states = hidden.clone().requires_grad_()
    part = next_token_loss(states, none, Head(weight), count=12)
    part.backward()
    assert part.item() == 0 and states.grad is not None and not states.grad.any()


def test_in_bf16_the_loss_is_near_and_gradients_keep_their_types(batch: tuple[torch.Tensor, ...]) -> None:
    hidden, labels, weight = batch
    states, rows = hidden.bfloat16().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = next_token_loss(states, labels, Head(rows))
    ours.backward()
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(_plain(hidden, labels, weight, None).item(), rel=1e-2)
    assert states.grad is not None and states.grad.dtype == torch.bfloat16
    assert rows.grad is not None and rows.grad.dtype == torch.float32


def _quantised(linear: torch.nn.Linear) -> Linear8bitLt:
    layer = Linear8bitLt(
        linear.in_features, linear.out_features, bias=linear.bias is not None, has_fp16_weights=False
    )
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


@pytest.mark.parametrize("bias", [False, True])
def test_the_8_bit_product_is_that_of_the_dequantised_weight(bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 80, bias=bias)
    theirs = _quantised(linear)
    model = torch.nn.Sequential(_quantised(linear))
    int8.use_for_training(model)
    ours = model[0]
    assert isinstance(ours, Linear8bitLt) and torch.equal(ours.weight, theirs.weight)
    stored = theirs.weight.float() * (theirs.weight.SCB / 127).unsqueeze(1)
    assert torch.equal(int8.dequantise(ours.weight, ours.weight.SCB, torch.float32), stored)

    x = torch.randn(2, 5, 48)
    kept: list[torch.Tensor] = []
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = model(a)
    wanted = functional.linear(b, stored, linear.bias)
    out.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    # No activation is kept, and none out of sight of activation checkpointing.
    assert {t.data_ptr() for t in kept} == {ours.weight.data_ptr(), ours.weight.SCB.data_ptr()}
    # Nearer to the float model than rounding the activations as well.
    exact = linear(x)
    assert (out - exact).abs().mean() <= (theirs(x) - exact).abs().mean()


@pytest.mark.parametrize("kind", ["llama", "granite"])
def test_where_logits_are_more_than_the_product_with_the_head(
    kind: str, stage2: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    """LoRA on the head, or logits that are scaled: the loss is that of the logits."""
    targets = ["q_proj", "lm_head"] if kind == "llama" else ["q_proj"]
    if kind == "granite":
        config = json.loads((shutil.copytree(model, tmp_path / "model") / "config.json").read_text())
        other = {"model_type": kind, "architectures": ["GraniteForCausalLM"], "logits_scaling": 0.1}
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **other}))
        model = tmp_path / "model"
    lora = {"rank": 4, "targets": targets, "dropout": 0.0}
    recipe = stage2(model=str(model), modules_to_save=["embed_tokens"], lora=lora, base_bits=16)
    trained = load_for_training(ModelFolder.open(model), recipe).train()
    for name, parameter in trainable(trained):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.arange(16, 80).reshape(2, -1)
    ours = trained(input_ids=ids, labels=ids, num_items_in_batch=100).loss
    logits = trained(input_ids=ids).logits[:, :-1]
    plain = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / 100
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    ours.backward()
    assert all(parameter.grad is not None for _, parameter in trainable(trained))
