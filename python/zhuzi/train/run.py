"""The output folder of a training run, and its report.

OUT/run.json      the recipe and fingerprints of what it reads; written first
OUT/log.jsonl     losses as they come
OUT/checkpoints/  what a stopped run goes on from
OUT/model/        the result: a whole model (no LoRA), or ...
OUT/adapter/      ... PEFT's adapter, to be merged
OUT/report.json   the report; written last: a run that has it is finished
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhuzi.errors import OutputExistsError
from zhuzi.model.folder import ModelFolder, write_json
from zhuzi.train.recipe import PretrainRecipe, Recipe, SftRecipe

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What a training run did."""

    task: str
    output: Path  # the run's folder
    result: Path  # the model, or the adapter, in it
    steps: int
    losses: list[tuple[int, float]]  # (step, mean loss of the steps since the entry before, nats a token)
    learning_rates: list[tuple[int, float]]
    tokens: int  # seen by the model over all steps, padding not counted
    seconds: float  # of training, in the process that finished it
    trainable: int
    parameters: int  # all of them, without PEFT's frozen copies
    trainable_names: list[str]
    resumed_from: int | None  # the step of the checkpoint it went on from
    frozen_checked: int | None  # tensors found bit-equal before and after, with `verify_frozen`
    left_out: int = 0  # records without room for their output

    @property
    def share(self) -> float:
        """Trainable share of all parameters, 0 to 1."""
        return self.trainable / self.parameters


@dataclass(frozen=True)
class Run:
    """A run's folder, claimed for one recipe on one model, tokenizer and data."""

    path: Path
    recipe: Recipe

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are written."""
        return self.path / "checkpoints"

    @classmethod
    def open(
        cls, recipe: PretrainRecipe | SftRecipe, folder: ModelFolder, data: str, *, overwrite: bool
    ) -> Run:
        """Claim `recipe.output`, new or to go on with.

        Raises:
            OutputExistsError: it holds something else, or a run of another recipe, model or data (the first
                key that differs is named).
        """
        run = cls(recipe.output, recipe)
        facts = {
            "format": 1,
            "recipe": {k: v for k, v in recipe.model_dump(mode="json").items() if k != "output"},
            "model": folder.fingerprint,
            "tokenizer": folder.tokenizer.fingerprint,
            "data": data,
        }
        if not is_main():  # the first process claims it for all
            return run
        for source in (folder.path, *recipe.data):
            if source.resolve().is_relative_to(run.path.resolve()):
                raise OutputExistsError(
                    f"{run.path}: holds {source}, which the run reads; choose another output"
                )
        if overwrite and run.path.exists():
            shutil.rmtree(run.path)
        known = run.path / "run.json"
        if known.is_file():
            key = _first_difference(_read(known), facts)
            if key is not None:
                raise OutputExistsError(
                    f"{run.path}: holds a run whose {key} differs; choose another output, or start anew with "
                    "--overwrite"
                )
        elif run.path.exists() and (
            not run.path.is_dir() or any(p.name != "run.tmp" for p in run.path.iterdir())
        ):
            raise OutputExistsError(
                f"{run.path}: already holds something that is no training run; choose another output, or "
                "replace it with --overwrite"
            )
        run.path.mkdir(parents=True, exist_ok=True)
        _write_whole(known, facts)
        run.checkpoints.mkdir(exist_ok=True)
        return run

    def finished(self) -> TrainReport | None:
        """The report of the run, if it has ended."""
        path = self.path / "report.json"
        if not path.is_file():
            return None
        _log.info("%s: this run is finished; nothing to do (start anew with --overwrite)", self.path)
        read = _read(path)
        del read["share"]
        for key in ("losses", "learning_rates"):
            read[key] = [(step, value) for step, value in read[key]]
        return TrainReport(**{**read, "output": self.path, "result": self.path / read["result"]})

    def finish(self, report: TrainReport) -> None:
        """Write the report, which ends the run."""
        facts = {**asdict(report), "share": report.share, "result": report.result.name}
        _write_whole(self.path / "report.json", {k: v for k, v in facts.items() if k != "output"})


def is_main() -> bool:
    """Whether this is the first of torchrun's processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    for key in ("recipe", "model", "tokenizer", "data"):
        before, now = old.get(key), new[key]
        if before == now:
            continue
        if not isinstance(now, dict) or not isinstance(before, dict):
            return key
        name = next(name for name in {**now, **before} if now.get(name) != before.get(name))
        return f"{name} ({json.dumps(before.get(name))} there, {json.dumps(now.get(name))} now)"
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
        return read
    except ValueError:
        raise OutputExistsError(
            f"{path}: damaged; choose another output, or start anew with --overwrite"
        ) from None


def _write_whole(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    write_json(temporary, value)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
