"""Checkpoints: what trains, its optimiser, and where the run is; complete or absent.

trainable.safetensors   the trained parameters in fp32, by name
optimizer.pt            the optimiser's state, by parameter; under fp16 the loss scale
random-R.pt             the random states of process R
state.json              the step, tokens, losses so far, and the SHA-256 of the other files; written last

A checkpoint is written under another name and renamed, so that a kill leaves the previous one. It does not
contain the frozen base.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from zhuzi._show import count
from zhuzi.errors import TrainingError
from zhuzi.model.weights import load_tensors
from zhuzi.record.disk import FullDiskError, naming_full_disk
from zhuzi.record.json_file import write_json
from zhuzi.record.output import replace_folder
from zhuzi.train.progress import warn
from zhuzi.train.state import TrainState

WEIGHTS, OPTIMIZER, STATE = "trainable.safetensors", "optimizer.pt", "state.json"
_FIRST_STATE = "trainer_state.json"  # of Zhuzi 0.1, which trained with transformers' Trainer
_DIGESTS = "sha256"  # key of state.json

Named = Sequence[tuple[str, torch.nn.Parameter]]


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(
        (p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)), key=step_of
    )


def step_of(checkpoint: Path) -> int:
    """The optimiser steps done when a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def remove_partial(folder: Path) -> None:
    """Remove what a kill left while a checkpoint was written or replaced."""
    for path in folder.glob(".checkpoint-*"):
        shutil.rmtree(path)


def save(
    folder: Path,
    state: TrainState,
    weights: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, Any],
    *,
    process: int,
    wait: Callable[[], None],
    keep: int,
    also: int | None = None,
) -> Path:
    """Write the checkpoint of a step; of older ones, keep the last `keep` and that of step `also`.

    Called by every process; `wait` returns when all have called it. `weights` and `optimizer` are whole:
    what trains by name, the optimiser's `parameters` by name and its `scaler`.

    Raises:
        FullDiskError: no room; the checkpoint before stays.
    """
    final = folder / f"checkpoint-{state.step}"
    writing = folder / f".{final.name}.partial"
    if process == 0:
        remove_partial(folder)
        writing.mkdir()
    wait()
    try:
        with naming_full_disk(final, written=writing):
            torch.save(_random_states(), writing / f"random-{process}.pt")
            if process == 0:
                save_file({name: p.contiguous() for name, p in weights.items()}, writing / WEIGHTS)
                torch.save(dict(optimizer), writing / OPTIMIZER)
        wait()
        if process == 0:
            with naming_full_disk(final, written=writing):
                write_json(writing / STATE, {**state.to_json(), _DIGESTS: _digests(writing)})
            replace_folder(writing, final)
            for old in checkpoints(folder)[:-keep]:
                if step_of(old) != also:
                    shutil.rmtree(old)
        wait()  # a process that ends here would have torchrun end the one that still renames
    except FullDiskError:
        if process == 0:
            remove_partial(folder)  # its bytes may be all that is left
        raise
    return final


def require_whole(checkpoint: Path) -> None:
    """Raise `TrainingError` if a checkpoint's files are not those that were written."""
    path = checkpoint / STATE
    if not path.is_file():
        if (checkpoint / _FIRST_STATE).is_file():
            return
        raise _damaged(checkpoint, f"{STATE} is missing")
    try:
        wanted = json.loads(path.read_text(encoding="utf-8")).get(_DIGESTS, {})
    except (ValueError, AttributeError):
        raise _damaged(checkpoint, f"{STATE} is not what was written") from None
    found = _digests(checkpoint)
    for name, digest in wanted.items():
        if found.get(name) != digest:
            what = "is not what was written" if name in found else "is missing"
            raise _damaged(checkpoint, f"{name} {what}")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but state.json, by name."""
    made = {}
    for path in sorted(folder.iterdir()):
        if path.name != STATE:
            with path.open("rb") as file:
                made[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return made


def _damaged(checkpoint: Path, why: str) -> TrainingError:
    before = [other for other in checkpoints(checkpoint.parent) if step_of(other) < step_of(checkpoint)]
    then = f"goes on from {before[-1].name}" if before else "starts from the beginning"
    return TrainingError(f"{checkpoint}: damaged: {why}; remove this folder, and the same command {then}")


def load_weights(checkpoint: Path, named: Named) -> None:
    """Put the weights of a checkpoint back, in place.

    Raises:
        TrainingError: they are of other parameters.
    """
    saved = load_tensors(checkpoint / WEIGHTS)
    if {n: p.shape for n, p in named} != {n: t.shape for n, t in saved.items()}:
        raise TrainingError(f"{checkpoint}: holds other parameters than the recipe trains")
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(saved[name])


def load(
    checkpoint: Path, state: TrainState, names: Sequence[str], *, process: int, processes: int
) -> dict[str, Any]:
    """Put back where the run was, and the random states, whatever the number of processes that wrote them.

    `names` are those of the parameters, in their order. Gives what was kept of the optimiser.
    """
    held: dict[str, Any] = _loaded(checkpoint / OPTIMIZER)
    if not (checkpoint / STATE).is_file():
        return _load_first_version(checkpoint, state, names, held)
    state.update(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    path = checkpoint / f"random-{process}.pt"
    if path.is_file():
        _set_random_states(_loaded(path))
    wrote = len(list(checkpoint.glob("random-*.pt")))
    if wrote != processes:
        warn(
            f"{checkpoint}: written by {count(wrote, 'process', 'processes')}, and resumed by {processes}: "
            "the examples of each step stay the same; dropout and rounding differ from here on"
        )
    return held


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        # Of a version that did not write down what its files are.
        raise _damaged(path.parent, f"{path.name} cannot be read") from None


def _load_first_version(
    checkpoint: Path, state: TrainState, names: Sequence[str], held: dict[str, Any]
) -> dict[str, Any]:
    """A checkpoint of transformers' Trainer, which Zhuzi 0.1 trained with: parameters in their order."""
    told = json.loads((checkpoint / _FIRST_STATE).read_text(encoding="utf-8"))
    state.step, state.tokens = told["global_step"], told["num_input_tokens_seen"]
    keys = ("step", "loss", "learning_rate")
    state.history = [{key: entry[key] for key in keys} for entry in told["log_history"] if "loss" in entry]
    order = [i for group in held["param_groups"] for i in group["params"]]
    states = {name: held["state"][i] for name, i in zip(names, order, strict=True) if i in held["state"]}
    warn(f"{checkpoint}: written by another training loop; from here on the text comes in another order")
    return {"parameters": states, "scaler": None}


def _random_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),  # plain values, so that loading runs no code
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, "uint32"), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
