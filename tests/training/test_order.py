"""Orders that are computed, not stored: permutations, what is left of one, and the batches they give."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhuzi.corpus.dataset import Corpus
from zhuzi.train.batches import Batches
from zhuzi.train.data import Blocks, collate_blocks
from zhuzi.train.evaluation import split
from zhuzi.train.mixture import Mixture
from zhuzi.train.order import Joined, Repeated, Rest, Shuffle
from zhuzi.train.recipe import EvaluateRecipe

Recipes = Callable[..., Any]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 16, 17, 100, 255, 256, 257, 10_007])
def test_a_shuffle_has_each_number_once(length: int) -> None:
    order = Shuffle(length, 1)
    assert sorted(order) == list(range(length))
    assert list(order) == list(Shuffle(length, 1)) == [order[i] for i in range(length)]
    if length > 4:
        assert list(order) != list(Shuffle(length, 2)) != list(range(length))
    with pytest.raises(IndexError):
        order[length]


def test_a_shuffle_is_like_one_that_is_drawn() -> None:
    """Each number is as often at each place, and neighbours are as far apart, as in random orders."""
    length, orders = 12, 6000
    counts = np.zeros((length, length))
    for seed in range(orders):
        counts[range(length), list(Shuffle(length, seed, "epoch", 0))] += 1
    wanted = orders / length
    chi = float(((counts - wanted) ** 2 / wanted).sum())
    assert chi < 121 + 5 * 2 * 121**0.5  # (12 - 1)^2 degrees of freedom
    order = np.array(list(Shuffle(50_000, 7)))
    assert np.abs(np.diff(order)).mean() == pytest.approx(50_000 / 3, rel=0.02)
    assert abs(np.corrcoef(order, np.arange(50_000))[0, 1]) < 0.02
    first, second = (np.array(list(Shuffle(50_000, 7, "epoch", epoch))) for epoch in (0, 1))
    assert (first == second).sum() < 10 and abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_what_is_left_and_what_is_repeated() -> None:
    held = [2, 5, 6, 9, 40]
    rest = Rest(5, 20, held)
    assert list(rest) == [7, 8, *range(10, 20)] and rest[-1] == 19 and rest[1:3] == [8, 10]
    assert list(Rest(0, 3, [0, 1, 2])) == []
    uses = Counter(Repeated(rest, 2.25, 1))
    assert uses.keys() == set(rest) and sorted(uses.values()) == [2] * 9 + [3] * 3
    assert len(Repeated(rest, 0.01)) == 0
    assert list(Joined([range(2), range(0), range(7, 9)])) == [0, 1, 7, 8]


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_step_has_the_same_examples_whatever_the_processes(stage1: Recipes, processes: int) -> None:
    """So a run that is resumed by more or fewer processes goes on with the examples it would have had."""
    recipe, data = stage1(batch_size=8), list(range(50))

    def of(step: int, count: int, micro: int) -> list[int]:
        shares = [
            Batches(data, list, recipe, micro, processes=count, process=process).of_step(step)  # type: ignore[arg-type]
            for process in range(count)
        ]
        return [example for share in shares for batch in share for example in batch.inputs]

    for step in (0, 5, 6, 20):  # the end of an epoch lies in step 6
        assert of(step, processes, 1) == of(step, 1, 8) == of(step, 1, 2)


def sparse_corpus(folder: Path, size: int, shards: int, documents: int) -> Corpus:
    """A corpus of zeros that takes no room on the disk."""
    entries = []
    for number in range(shards):
        tokens = size // 2 // shards
        ends = np.linspace(0, tokens, documents + 1).astype("<i8")[1:]
        begins = np.concatenate([[0], ends[:-1]]).astype("<i8")
        name = f"shard-{number:05}"
        header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1)
        bounds = np.arange(documents + 1, dtype="<i8").tobytes()
        lengths = (ends - begins).astype("<i4").tobytes()
        (folder / f"{name}.idx").write_bytes(header + lengths + (2 * begins).tobytes() + bounds)
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(2 * tokens)
        entries.append({"name": name, "documents": documents, "tokens": tokens, "bytes": 2 * tokens})
    manifest = {
        "format": 1, "tokenizer": {"fingerprint": "f", "vocab_size": 9}, "dtype": "uint16", "eos": True,
        "documents": shards * documents, "tokens": sum(e["tokens"] for e in entries), "shards": entries,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Corpus(folder)


def test_the_first_batch_of_9_gb_is_there_at_once(stage1: Recipes, tmp_path: Path) -> None:
    """With what is held out and with weights; neither time nor memory grows with the number of blocks."""
    sparse_corpus(tmp_path, 9 * 10**9, 9, 20_000)
    recipe = stage1(batch_size=8)
    begun = time.process_time()
    corpus = Corpus(tmp_path)
    corpus.fingerprint()
    tracemalloc.start()
    blocks = Mixture([Blocks(corpus, 512, 9)], [1.5])
    chosen, held_out = split(blocks, EvaluateRecipe(share=0.01), 1)
    assert held_out is not None
    epoch = blocks.epoch(held_out.indices, 1)
    for examples in (blocks, chosen):
        Batches(examples, collate_blocks, recipe, 8).of_step(10**6)
    assert len(blocks) > 8_780_000 and len(epoch) > 13_000_000 and epoch[len(epoch) - 1] < len(blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert time.process_time() - begun < 1
