"""Several stages in one recipe file: each trains the result of the one before.

    model: models/llama-7b-zh
    corpus: corpus/zh
    output: runs/7b
    stages:
      - name: stage1
        modules_to_save: [embed_tokens]
        ...
      - name: stage2
        lora: {rank: 8, ...}
        ...

What stands beside `stages` is for every stage, and a stage's own key replaces it. Each stage is a run of its
own in `output/NAME`, so that a file that was stopped goes on where it stopped: finished stages are skipped,
the one that was stopped resumes from its checkpoint.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from pydantic import BaseModel

from zhuzi._process import has_gpu, is_main
from zhuzi.errors import RecipeError
from zhuzi.train.progress import tell
from zhuzi.train.recipe import AnyRecipe
from zhuzi.train.recipe_file import load_recipe, of_kind, read_yaml, resolve_recipe, validated, with_settings
from zhuzi.train.run import TrainReport

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Stage(Generic[AnyRecipe]):
    """A stage: its name, none if the file has only one run, and its recipe."""

    name: str
    recipe: AnyRecipe

    @property
    def result(self) -> Path:
        """The model folder that the next stage trains: what was trained, or merged into what was."""
        if self.recipe.lora is None:
            return self.recipe.output / "model"
        return self.recipe.output.with_name(f"{self.name}-merged")


def load_stages(path: str | Path, settings: Sequence[str] = ()) -> list[Stage[Any]]:
    """The stages of a recipe file; one without a name if it has no `stages`.

    Args:
        path: as in `load_recipe`.
        settings: as in `load_recipe`; those of `stages.NAME.key=value` are for one stage, others for all.

    Raises:
        RecipeError: as `load_recipe`, or stages that cannot follow each other.
    """
    read = read_yaml(path)
    if "stages" not in read:
        return [Stage("", load_recipe(path, settings))]
    where = f"{path} with {' '.join(settings)}" if settings else str(path)
    listed, shared = read["stages"], {key: value for key, value in read.items() if key != "stages"}
    names = _names(listed, where)
    own: dict[str, list[str]] = {name: [] for name in names}
    for setting in settings:
        key = setting.partition("=")[0]
        name = key.split(".")[1] if key.startswith("stages.") and key.count(".") > 1 else None
        if name is not None and name not in own:
            raise RecipeError(f"--set {setting}: no stage is called {name}; there are {', '.join(names)}")
        for each in [name] if name is not None else names:
            own[each].append(setting.removeprefix(f"stages.{name}."))
    stages: list[Stage[Any]] = []
    for name, given in zip(names, listed, strict=True):
        keys = with_settings(
            {**shared, **{key: value for key, value in given.items() if key != "name"}}, own[name]
        )
        if stages:
            keys["model"] = str(stages[-1].result)
        if isinstance(keys.get("output"), str):
            keys["output"] = str(Path(keys["output"]) / name)
        stages.append(Stage(name, validated(keys, f"{where}, {name}")))
    return stages


def resolve_stages(
    recipe: AnyRecipe | str | Path, kind: type[AnyRecipe], settings: Sequence[str] = ()
) -> list[Stage[AnyRecipe]]:
    """The stages of a recipe, or of its file, all of the wanted kind."""
    if isinstance(recipe, BaseModel):
        return [Stage("", resolve_recipe(recipe, kind, settings))]
    stages = load_stages(recipe, settings)
    for stage in stages:
        of_kind(stage.recipe, kind, f"{recipe}, {stage.name}" if stage.name else str(recipe))
    return stages


def run_stages(stages: Sequence[Stage[AnyRecipe]], train: Callable[[AnyRecipe], TrainReport]) -> TrainReport:
    """Train each stage on the result of the one before; the report of the last."""
    for number, stage in enumerate(stages):
        if len(stages) > 1:
            tell(f"stage {number + 1} of {len(stages)}: {stage.name}")
        report = train(stage.recipe)
        if stage is not stages[-1] or has_gpu():
            gc.collect()  # the model refers to itself: what comes next would find its memory taken
        if stage is not stages[-1]:
            _hand_over(stage, report)
    return report


def _hand_over(stage: Stage[Any], report: TrainReport) -> None:
    """Merge an adapter into what it was trained on, once; processes that do not, wait for the model."""
    if is_main() and stage.recipe.lora is not None and not stage.result.exists():
        from zhuzi.model import merge_adapter

        tell(f"merging {report.result} for the next stage, into {stage.result}")
        merge_adapter(stage.recipe.model, report.result, stage.result)
    while not (stage.result / "config.json").is_file():  # whole or absent
        time.sleep(0.5)


def _names(listed: Any, where: str) -> list[str]:
    if not isinstance(listed, list) or not listed or not all(isinstance(it, Mapping) for it in listed):
        raise RecipeError(f"{where}: stages: want a list of stages, as in [{{name: stage1, ...}}, ...]")
    names = [str(stage.get("name", f"stage{number}")) for number, stage in enumerate(listed, 1)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise RecipeError(f"{where}: stages: {name!r} becomes a folder; want letters, digits, - and _")
        if names.count(name) > 1:
            raise RecipeError(f"{where}: stages: two are called {name}; name each once")
    for name, stage in zip(names, listed, strict=True):
        for key in ("model", "output"):
            if key in stage:
                raise RecipeError(
                    f"{where}, {name}: {key}: a stage has none of its own; write it once beside stages: the "
                    "first stage trains that model, each other the result of the one before, and each writes "
                    "into a folder of its name in output"
                )
    return names
