"""Run as a script: the memory that training takes on a CPU, above that of the process before it.

Takes a recipe as JSON; prints bytes. A tiny model trains first, so that libraries have loaded what they load
at first use.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zhuzi.model.folder import ModelFolder
from zhuzi.train.base import load_for_training
from zhuzi.train.data import collate_blocks
from zhuzi.train.loop import Loop
from zhuzi.train.recipe import PretrainRecipe


class RandomBlocks:
    """Blocks of random ids."""

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length

    def __len__(self) -> int:
        return 1 << 10

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.randint(self.rows, (self.length,), generator=torch.Generator().manual_seed(i))


def make_model(folder: Path, hidden: int, inner: int, layers: int, rows: int) -> None:
    """A LLaMA with random weights in fp16."""
    config = LlamaConfig(
        vocab_size=rows, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(folder)


def train(recipe: PretrainRecipe) -> None:
    """All steps of a recipe, without saving."""
    folder = ModelFolder.open(recipe.model)
    run: Any = SimpleNamespace(checkpoints=recipe.output / "checkpoints")
    blocks = RandomBlocks(folder.rows, recipe.sequence_length)
    loop = Loop(load_for_training(folder, recipe), recipe, run, blocks, collate_blocks, [])
    loop._save = lambda: None  # type: ignore[method-assign]
    loop.train()


def memory(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    torch.set_num_threads(1)
    warm, recipe = (PretrainRecipe.model_validate(given) for given in json.loads(sys.argv[1]))
    train(warm)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    train(recipe)
    sys.stdout.write(f"{memory('VmHWM') - before}\n")


if __name__ == "__main__":
    main()
