"""`examples/slurm`: the scripts under stand-ins for srun, scontrol and zhuzi."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "slurm"
Start = Callable[..., "subprocess.Popen[str]"]

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_PROCID=3 SLURM_LOCALID=3 SLURM_NTASKS=8
exec "$@"
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a script whose `zhuzi` is the given one; what scontrol is told stands in `told`."""
    stands = tmp_path / "bin"
    stands.mkdir()

    def begin(script: str, zhuzi: str, *arguments: str) -> subprocess.Popen[str]:
        scontrol = f'#!/bin/bash\necho "$@" >> {tmp_path / "told"}\n'
        for name, text in (("srun", SRUN), ("scontrol", scontrol), ("zhuzi", f"#!/bin/bash\n{zhuzi}\n")):
            (stands / name).write_text(text)
            (stands / name).chmod(0o755)
        path = f"{stands}:{os.environ['PATH']}"
        slurm = {"SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "4", "TOKENIZER": "tok", "OUT": "out"}
        return subprocess.Popen(
            ["bash", str(EXAMPLES / script), *arguments],
            env={**os.environ, **slurm, "PATH": path},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )

    return begin


def told(tmp_path: Path) -> str:
    file = tmp_path / "told"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (3, False), (75, True)])
def test_training_is_requeued_after_a_checkpoint_alone(
    start: Start, tmp_path: Path, status: int, requeued: bool
) -> None:
    task = start(
        "train.sbatch",
        f'echo "$@" $RANK $LOCAL_RANK $WORLD_SIZE ${{MASTER_ADDR:+there}} $MASTER_PORT; exit {status}',
        "recipe.yaml",
    )
    assert task.communicate(timeout=30)[0] == "pretrain recipe.yaml 3 3 8 there 20042\n"
    assert task.returncode == (0 if requeued else status)
    assert told(tmp_path) == ("requeue 42\n" if requeued else "")


def test_a_corpus_is_requeued_when_its_time_is_over(start: Start, tmp_path: Path) -> None:
    task = start(
        "corpus.sbatch",
        "trap 'echo stopped; exit 1' TERM; echo \"$@\" > begun; while true; do sleep 0.05; done",
        "a.jsonl",
        "b c.jsonl",
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    task.send_signal(signal.SIGTERM)
    assert task.communicate(timeout=30)[0] == "stopped\n"
    assert task.returncode == 0
    assert told(tmp_path) == "requeue 42\n"
    wanted = "corpus encode a.jsonl b c.jsonl --tokenizer tok --out out --threads 4 --log-format json\n"
    assert (tmp_path / "begun").read_text() == wanted


@pytest.mark.parametrize("status", [0, 1])
def test_a_corpus_that_ends_by_itself_is_not_requeued(start: Start, tmp_path: Path, status: int) -> None:
    task = start("corpus.sbatch", f"exit {status}", "a.jsonl")
    task.communicate(timeout=30)
    assert task.returncode == status and told(tmp_path) == ""
