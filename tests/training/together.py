"""Runs of two processes on this machine, on its CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Arguments of the interpreter that launch two processes: torchrun's, and accelerate's.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]


def run(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """This interpreter with some arguments, without GPUs, to its end; `more` is put into its environment."""
    # DeepSpeed looks for ninja, which is beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PATH": path}
    environment = {**os.environ, **hidden, **more}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment
    )


def write_recipe(recipe: Any) -> str:
    """The path of a recipe's file, beside its output."""
    path: Path = recipe.output.with_suffix(".yaml")
    path.write_text(recipe.model_dump_json())  # JSON is YAML
    return str(path)
