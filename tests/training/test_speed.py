"""Tokens per second, MFU and time left: of steps alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from zhuzi import pretrain
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState, speed
from zhuzi.train.base import load_for_training
from zhuzi.train.log import LogProgress, _shown
from zhuzi.train.speed import Speed, flops_per_token, peak_flops

Recipes = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A1000", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peaks_by_name(name: str, teraflops: float | None) -> None:
    assert peak_flops(name) == (None if teraflops is None else pytest.approx(teraflops * 1e12))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_operations_are_those_that_torch_counts(
    request: pytest.FixtureRequest, stage: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for attention: PaLM counts the products that a causal mask hides."""
    # torch does not count products in place.
    monkeypatch.setattr("zhuzi.train.loss._add_product", lambda into, a, b: into.add_(a @ b))
    recipe = request.getfixturevalue(stage)(
        base_bits=16, vocabulary="full" if stage == "stage1" else "new-rows"
    )
    made = load_for_training(ModelFolder.open(model), recipe)
    ids = torch.randint(400, (2, 16), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        made(input_ids=ids, labels=ids).loss.backward()
    attention = 12 * 2 * 32 * 16
    found = flops_per_token(made, 16) - attention
    counted = {k: v for k, v in counter.get_flop_counts()["Global"].items() if "attention" not in str(k)}
    # The last token of a sequence has no loss.
    assert sum(counted.values()) / ids.numel() == pytest.approx(found, rel=0.05)


def test_pauses_between_steps_do_not_count(stage1: Recipes) -> None:
    class Slow(TrainCallback):
        def on_step_end(self, state: TrainState) -> None:
            time.sleep(1)

        def on_log(self, state: TrainState) -> None:
            entries.append(state.history[-1])

    entries: list[dict[str, Any]] = []
    pretrain(stage1(evaluate={"every": 1, "share": 0.1}, log_every=1), callbacks=[Slow()])
    each = [64 / entry["tokens_per_second"] for entry in entries]
    assert max(each[1:]) < 1
    assert entries[-1]["seconds_left"] == 0 and entries[-2]["seconds_left"] < 1
    assert entries[0]["memory_bytes"] > 1e8 and "mfu" not in entries[0]


def test_mfu_is_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "flops_per_token", lambda model, length: 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 << 30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    ticks = iter([0.0, 8.0, 10.0, 12.0, 20.0, 22.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    for name, mfu in (("Tesla T4", 1000e9 / 130e12), ("Tesla K80", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        timed = Speed(torch.nn.Module(), 16, processes=2)
        if mfu is None:
            assert timed.entry(0)["mfu"] is None
            continue
        for _ in range(2):
            with timed.step():
                pass
            timed.add(5000)
        entry = timed.entry(3600)
        assert entry == {
            "tokens_per_second": 1000.0,
            "mfu": pytest.approx(mfu, rel=0.01),
            "memory_bytes": 5 << 30,
            "seconds_left": 7200.0,  # the first step does not count
        }
    shown = {"loss": 2.0, "learning_rate": 1e-4, "gradient_norm": 0.5, **entry}
    assert _shown(shown) == (
        "loss 2.0000, lr 1.00e-04, grad norm 0.50, 1,000 tokens/s, MFU 0.8%, 5.0 GiB, 2:00:00 left"
    )
    assert "MFU -," in _shown({**shown, "mfu": None})


def test_the_bar_shows_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogProgress(tmp_path / "log.jsonl", progress=True)
    state = TrainState(steps=4)
    logs.on_train_begin(state)
    state.step = 2
    state.history.append(
        {
            "step": 2, "loss": 2.0, "learning_rate": 1e-4, "gradient_norm": 0.5, "tokens_per_second": 99.0,
            "memory_bytes": 1 << 30, "seconds_left": 61.0,
        }
    )  # fmt: skip
    logs.on_step_end(state)
    logs.on_step_end(state)
    logs.on_log(state)
    logs.bar.refresh()
    logs.close()
    assert "loss 2.0000, lr 1.00e-04, grad norm 0.50, 99 tokens/s, 1.0 GiB, 1:01 left]" in (
        capsys.readouterr().err
    )
