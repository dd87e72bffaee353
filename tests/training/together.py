"""Runs of several processes on this machine, on its CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: torchrun, and accelerate's launcher, for processes of this machine.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Without GPUs, and with the programs of this interpreter (ninja) where DeepSpeed looks for them."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PATH": path}
    return {**os.environ, **hidden, **more}


def start(words: list[str], **settings: Any) -> subprocess.Popen[str]:
    """This interpreter with some arguments, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **settings,
    )  # fmt: skip


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment()
    )


def write_recipe(recipe: Any, folder: Path) -> str:
    """The path of a recipe's file; JSON is YAML."""
    path = folder / f"{recipe.output.name}.yaml"
    path.write_text(recipe.model_dump_json())
    return str(path)
