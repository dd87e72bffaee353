"""The figures of log.jsonl, and samples, in TensorBoard, W&B, SwanLab or MLflow, by accelerate's trackers.

OUT/tensorboard/    TensorBoard's event files
OUT/trackers.json   the ids of runs elsewhere, so that a resumed run continues them
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from zhuzi._process import is_main
from zhuzi.errors import TrainingError
from zhuzi.record.json_file import read_state, replace_json
from zhuzi.train.checks import trackers_of
from zhuzi.train.measures import figures
from zhuzi.train.progress import tell, warn
from zhuzi.train.recipe import Recipe
from zhuzi.train.run import Run
from zhuzi.train.state import TrainCallback, TrainState

# What has to be done where a tracker does not start.
_REMEDY = {
    "tensorboard": "",
    "wandb": "log in (`wandb login`), set WANDB_MODE=offline, or ",
    "swanlab": "log in (`swanlab login`), set SWANLAB_MODE=offline, or ",
    "mlflow": "set MLFLOW_TRACKING_URI to a database or server that can be reached, or ",
}


class Trackers(TrainCallback):
    """Sends what is logged and evaluated, from rank 0.

    A resumed run continues its step axis, and the same run elsewhere. What fails while training goes on is
    said once and left out: log.jsonl has all of it.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        self.recipe, self.run = recipe, run
        self.started: dict[str, Any] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Start them.

        Raises:
            TrainingError: one of a new run does not start. In a resumed run it is left out with a warning.
        """
        if not is_main():
            return
        known = self.run.path / "trackers.json"
        ids: dict[str, str] = read_state(known) if known.is_file() else {}
        for name in trackers_of(self.recipe):
            try:
                self.started[name] = self._start(name, ids, state)
            except Exception as error:
                reason = f"trackers: {name} does not start ({_one_line(error)})"
                if state.step == 0:
                    raise TrainingError(f"{reason}; {_REMEDY[name]}leave it out of trackers") from error
                warn(f"{reason}; training goes on without it")
        replace_json(known, ids)

    def on_log(self, state: TrainState) -> None:
        entry = state.history[-1]
        self._send(state.step, {f"train/{key}": entry[key] for key in entry if key != "step"})

    def on_evaluate(self, state: TrainState) -> None:
        found = figures(state.evaluations[-1])
        names = {"loss": "loss", **{name: f"bits_per_byte/{name}" for name in found if name != "loss"}}
        self._send(state.step, {f"evaluation/{names[name]}": value for name, value in found.items()})

    def send_samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """The prompts and texts of a step: a table, or a text for each prompt."""
        self._each(lambda tracker: _send_texts(tracker, step, samples))

    def close(self) -> None:
        """Finish them, however training ended."""
        self._each(lambda tracker: tracker.finish())

    def _start(self, name: str, ids: dict[str, str], state: TrainState) -> Any:
        folder, kind = self.run.path, LOGGER_TYPE_TO_CLASS[name]
        title, is_new = folder.resolve().name, name not in ids
        if name == "tensorboard":
            # Steps after the checkpoint are trained again: what was written of them is hidden.
            tracker = kind(name, folder, purge_step=state.step + 1 if state.step else 0)
        elif name == "mlflow":
            tracker = kind("zhuzi", run_id=ids.get(name), run_name=title)
        else:
            ids.setdefault(name, uuid.uuid4().hex[:21])  # SwanLab wants 21 characters
            options = {"id": ids[name], "resume": "allow"}
            options |= (
                {"dir": str(folder), "name": title}
                if name == "wandb"
                else {"logdir": str(folder / name), "experiment_name": title}
            )
            tracker = kind(os.environ.get(f"{name.upper()}_PROJECT", "zhuzi"), **options)
        tracker.start()
        if name == "tensorboard":
            tell(f"TensorBoard: tensorboard --logdir {folder / name}")
            return tracker
        if name == "mlflow":
            ids[name] = tracker.tracker.info.run_id
        tell(f"{name}: run {ids[name]}")
        if is_new:
            tracker.store_init_configuration(_flat(self.recipe.model_dump(mode="json")))
        return tracker

    def _send(self, step: int, values: Mapping[str, float | None]) -> None:
        # JSON has no infinity, and some trackers take none: the norm of a step that fp16 skips.
        known = {_tag(key): v for key, v in values.items() if v is not None and math.isfinite(v)}
        self._each(lambda tracker: tracker.log(known, step=step))

    def _each(self, do: Callable[[Any], None]) -> None:
        for name in list(self.started):
            try:
                do(self.started[name])
            except Exception as error:
                del self.started[name]
                warn(f"trackers: {name} failed ({_one_line(error)}); training goes on without it")


def _send_texts(tracker: Any, step: int, samples: Sequence[tuple[str, str]]) -> None:
    if tracker.name == "wandb":
        tracker.log_table("samples", columns=["prompt", "text"], data=list(map(list, samples)), step=step)
    elif tracker.name == "swanlab":
        from swanlab import Text

        tracker.log({"samples": [Text(text, caption=prompt) for prompt, text in samples]}, step=step)
    elif tracker.name == "mlflow":
        import mlflow

        lines = "".join(f"{prompt}\n{text}\n\n" for prompt, text in samples)
        mlflow.log_text(lines, f"samples/step-{step}.txt")
    else:  # TensorBoard reads Markdown, in which indented lines are shown as they are
        shown = (f"{prompt}\n\n{text}".replace("\n", "\n    ") for prompt, text in samples)
        tracker.log({f"samples/{n}": f"    {text}" for n, text in enumerate(shown, 1)}, step=step)


def _tag(name: str) -> str:
    """A name that all of them take."""
    return re.sub(r"[^\w./-]+", "_", name).replace("//", "/")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted names; lists as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat
