"""The output folder of a training run, and its report.

OUT/run.json      the recipe and fingerprints of what it reads; written first
OUT/log.jsonl     losses as they come
OUT/checkpoints/  what a stopped run resumes from
OUT/model/        the result: a whole model (no LoRA), or ...
OUT/adapter/      ... PEFT's adapter, to be merged
OUT/report.json   the report, written last: a run that has it is finished
OUT/.lock         held (flock) by the process that trains

A run that is replaced by another is kept next to it as .OUT.replaced until the new one has its first
checkpoint or its report, and is put back if the new one fails before that.

A run that ended before its first checkpoint has nothing to lose: the next start there, of whatever recipe and
data, begins anew in its folder.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zhuzi._process import is_main, launched
from zhuzi._show import Report, count
from zhuzi.errors import OVERWRITE, OutputExistsError, naming
from zhuzi.model.folder import ModelFolder
from zhuzi.model.positions import in_words as rope_in_words
from zhuzi.model.positions import rope_of
from zhuzi.record.disk import naming_full_disk, new_file_mode
from zhuzi.record.json_file import read_state, replace_json
from zhuzi.record.lock import locked
from zhuzi.record.place import require_free
from zhuzi.train.checks import in_words, require_room
from zhuzi.train.measures import changes
from zhuzi.train.origins import DataOrigin
from zhuzi.train.origins import in_words as told
from zhuzi.train.plan import brief_plan
from zhuzi.train.progress import tell, warn
from zhuzi.train.recipe import PretrainRecipe, SftRecipe, completed

#: The way in which the order of the data follows from the seed (`zhuzi.train.order`).
ORDER = 2

#: Whose versions the record of a result has.
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


@dataclass(frozen=True, repr=False)
class TrainReport(Report):
    """What a training run did."""

    task: str
    output: Path  # the run's folder
    result: Path  # the model, or the adapter, in it
    steps: int
    losses: list[tuple[int, float]]  # (step, mean loss since the previous entry, nats per token)
    learning_rates: list[tuple[int, float]]
    tokens: int  # seen by the model in all steps, without padding
    seconds: float  # of training, in the process that finished the run
    trainable: int
    parameters: int  # in all, without PEFT's frozen copies
    trainable_names: list[str]
    resumed_from: int | None  # the step of the checkpoint it resumed from
    frozen_checked: int | None  # tensors that are equal bit for bit before and after, with `verify_frozen`
    left_out: int = 0  # records without room for their output
    empty_outputs: int = 0  # records left out because their output is empty
    cut: int = 0  # records whose output was cut at `sequence_length`
    cut_answers: int = 0  # later answers of such records, cut away whole
    unanswered: int = 0  # conversations whose last question has no answer, and is left out
    skipped: int = 0  # wrong records left out, with `on_error: skip`
    unread_keys: dict[str, int] = field(default_factory=dict)  # keys of records that tuning does not read
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # see `TrainState.evaluations`
    device: str = ""  # of the process that finished it: "cpu", "cuda:0 NVIDIA ..."
    compute_dtype: str = ""  # "float32", "bfloat16" or "float16"

    def _rows(self) -> Iterable[tuple[str, object]]:
        moved = {
            name: f"{now:.4f}" if start is None else f"{start:.4f} to {now:.4f} ({now - start:+.4f})"
            for name, start, now in changes(self.evaluations)
        }
        return [(name, moved if name == "evaluations" else value) for name, value in super()._rows()]

    def _headline(self) -> str:
        first, last = (f"{self.losses[at][1]:.3f}" if self.losses else "?" for at in (0, -1))
        return f"{self.result}: {count(self.steps, 'step')}, loss {first} to {last}, {self.share:.2%} trained"

    @property
    def share(self) -> float:
        """Share of all parameters that train, 0 to 1."""
        return self.trainable / self.parameters


@dataclass(frozen=True)
class Run:
    """A run's folder, claimed for one recipe on one model, tokenizer and data."""

    path: Path
    recipe: PretrainRecipe | SftRecipe

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are written."""
        return self.path / "checkpoints"

    @classmethod
    def prepare(
        cls,
        recipe: PretrainRecipe | SftRecipe,
        folder: ModelFolder,
        data: Callable[[], DataOrigin],
        *,
        overwrite: bool,
        source: Path | None = None,
    ) -> dict[str, Any]:
        """Check what `open` checks, as far as it is quick, and announce the run unless it is finished.

        Returns what run.json says of the run, without the fingerprint of the weights. `data` is called by the
        first process alone. Raises what `open` raises.
        """
        if not is_main():  # rank 0 claims it for all
            return {}
        run = cls(recipe.output, recipe)
        run._require_free(folder, overwrite=overwrite, source=source)
        facts: dict[str, Any] = {
            "format": 1,
            "recipe": {k: v for k, v in recipe.model_dump(mode="json").items() if k != "output"},
            "tokenizer": folder.tokenizer.fingerprint,
            "rope": rope_of(folder.config),
            **data().facts,
            "order": ORDER,
        }
        goes_on = run._is_begun and run.is_claimed and not overwrite
        if goes_on:
            run._require_same(facts)
        if overwrite or not (run.path / "report.json").is_file():
            require_room(recipe, folder)
            tell(in_words(recipe, folder))
            planned = brief_plan(recipe, folder.path)
            if planned is not None:
                tell(planned)
            if goes_on:
                run._tell_of_rounding()
        return facts

    @classmethod
    @contextmanager
    def open(
        cls,
        recipe: PretrainRecipe | SftRecipe,
        folder: ModelFolder,
        facts: Mapping[str, Any],
        *,
        overwrite: bool,
        source: Path | None = None,
    ) -> Iterator[Run]:
        """Hold `recipe.output`, new or to be resumed, during the block.

        `facts` are those of `prepare`, `source` is the recipe's own file. All weights are read for their
        fingerprint.

        Raises:
            OutputExistsError: it contains something else, a run of another recipe, model or data (the message
                names the first key that differs), or another process trains there.
        """
        run = cls(recipe.output, recipe)
        if not is_main():
            yield run
            return
        facts = {**facts, "model": folder.fingerprint}
        # Checked again: reading the weights takes minutes, and something may have been put there meanwhile.
        run._require_free(folder, overwrite=overwrite, source=source)
        # Decided before the lock: what appears later is another process's and must not be moved.
        there, is_run = run.path.exists() and any(run.path.iterdir()), run._is_begun
        with naming_full_disk(run.path), ExitStack() as held:
            if is_run:
                held.enter_context(locked(run.path, "trains"))
            if is_run and not overwrite:
                if run.is_claimed:
                    run._require_same(facts)
                else:
                    run._begin_anew(facts)
                yield run
                return
            run._begin(facts, held, replace=overwrite and there)
            try:
                yield run
            except BaseException:
                run._take_back()
                raise

    @property
    def _is_begun(self) -> bool:
        known = self.path / "run.json"
        return known.is_file() and "recipe" in read_state(known)  # else it is another program's

    def _require_free(self, folder: ModelFolder, *, overwrite: bool, source: Path | None) -> None:
        """Raise `OutputExistsError` unless the folder is free or has a run that is to be resumed."""
        if overwrite or not self._is_begun:
            inputs = (folder.path, *self.recipe.data, *([source] if source else []))
            require_free(self.path, overwrite=overwrite, inputs=inputs)

    def _require_same(self, facts: Mapping[str, Any]) -> None:
        key = _first_difference(read_state(self.path / "run.json"), facts)
        if key is not None:
            taken = f"{self.path}: holds a run whose {key} differs; "
            if key.startswith(("steps ", "epochs ")):
                taken += f"its learning rates depend on it: to train longer, {self._to_train_longer()}; else "
            raise naming(OutputExistsError, f"{taken}choose another output, or start again with ", OVERWRITE)

    def _to_train_longer(self) -> str:
        report = self.path / "report.json"
        if not report.is_file():
            return "let it end and train its result"
        result = self.path / read_state(report)["result"]
        trained = (
            f"merge {result} and train the merged model" if result.name == "adapter" else f"train {result}"
        )
        return f"{trained} in another run, as this one has ended"

    def _tell_of_rounding(self) -> None:
        begun = read_state(self.path / "run.json")
        if begun.get("order") != ORDER:
            held_out = self.recipe.evaluate is not None and self.recipe.evaluate.share > 0
            warn(
                f"{self.path}: begun by another version; from here on the data come in another order"
                + (
                    ", and other examples are held out: this run has trained on some of them"
                    if held_out
                    else ""
                )
            )
        before = completed(begun["recipe"])
        for key in ("micro_batch_size", "compile", "deepspeed", "fsdp"):
            then, now = before.get(key), getattr(self.recipe, key)
            if then != now:
                tell(f"{key} is {now}, was {then}: dropout and rounding differ from here on")

    def require_steps(self, steps: int, examples: int) -> None:
        """Say, and record in run.json, how many steps the recipe's epochs are.

        Raises:
            OutputExistsError: they were another number when the run began.
        """
        if not is_main():
            return
        tell(
            f"epochs: {self.recipe.epochs:g} of {count(examples, 'sequence')}, "
            f"{self.recipe.batch_size:,} a step: {count(steps, 'step')}"
        )
        known = self.path / "run.json"
        facts = read_state(known)
        if facts.setdefault("steps", steps) != steps:
            raise naming(
                OutputExistsError,
                f"{self.path}: holds a run of {count(facts['steps'], 'step')}, and its epochs are "
                f"{count(steps, 'step')} now; choose another output, or start again with ",
                OVERWRITE,
            )
        replace_json(known, facts)

    def _begin_anew(self, facts: Mapping[str, Any]) -> None:
        """Let the folder of a run without a checkpoint, which is locked, be that of this one."""
        if _first_difference(read_state(self.path / "run.json"), facts) is not None:
            tell(f"{self.path}: what was started there has no checkpoint; this run takes its place")
            for name in ("log.jsonl", "samples.jsonl", "trackers.json"):  # of another run
                (self.path / name).unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        replace_json(self.path / "run.json", facts)

    def _begin(self, facts: Mapping[str, Any], held: ExitStack, *, replace: bool) -> None:
        """Put a new run in place, locked from the start; with `replace`, move what is there aside."""
        place = self.path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        try:
            held.enter_context(locked(made, "trains"))
            replace_json(made / "run.json", facts)
            (made / "checkpoints").mkdir()
            made.chmod(place.stat().st_mode & 0o777 if place.exists() else new_file_mode(0o777))
            if replace:
                if self._replaced.exists() and not self._stands():
                    shutil.rmtree(place)  # a run killed before its first checkpoint: keep what it replaced
                else:
                    self.settle()
                    place.rename(self._replaced)
            try:
                made.rename(place)
            except OSError as error:
                if not place.exists() and self._replaced.exists():
                    self._replaced.rename(place)
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # such as a mount point
                    raise OutputExistsError(
                        f"{self.path}: cannot be put in place ({error.strerror}); name a folder in it"
                    ) from error
                raise OutputExistsError(
                    f"{self.path}: another process put something there; choose another output"
                ) from error
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    @property
    def _replaced(self) -> Path:
        place = self.path.resolve()
        return place.with_name(f".{place.name}.replaced")

    def _stands(self) -> bool:
        """Whether the run has something to resume from, or is finished."""
        return (self.path / "report.json").is_file() or any(self.checkpoints.glob("checkpoint-*"))

    @property
    def is_claimed(self) -> bool:
        """Whether another recipe or other data would lose work: this run's, or that of one it replaced."""
        return self._stands() or self._replaced.exists()

    def settle(self) -> None:
        """Remove the run that this one replaced, now that this one has a checkpoint or its report."""
        if is_main() and self._replaced.exists():
            shutil.rmtree(self._replaced)

    def _take_back(self) -> None:
        """After a failure, put back what the run replaced if it has no checkpoint of its own."""
        if self._replaced.exists() and not self._stands():
            shutil.rmtree(self.path.resolve())
            self._replaced.rename(self.path.resolve())
            warn(f"{self.path}: the run it was to replace is back in place")

    def finished(self, overwrite: bool = False) -> TrainReport | None:
        """The report of a finished run; None if it is not finished, or rank 0 is overwriting it."""
        path = self.path / "report.json"
        if overwrite or not path.is_file():
            return None
        tell(f"{self.path}: this run is finished; nothing to do (to start again, overwrite it)")
        read = read_state(path)
        del read["share"]
        for key in ("losses", "learning_rates"):
            read[key] = [(step, value) for step, value in read[key]]
        return TrainReport(**{**read, "output": self.path, "result": self.path / read["result"]})

    @property
    def origins(self) -> dict[str, Any]:
        """What the record of the result says of its making, its base and tokenizer apart."""
        begun = read_state(self.path / "run.json")
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            **{key: begun[key] for key in ("data", "trained_on") if key in begun},
            "versions": {name: version(name) for name in (*_LIBRARIES, *self._divided_by)},
        }

    @property
    def _divided_by(self) -> tuple[str, ...]:
        return ("deepspeed",) if self.recipe.deepspeed is not None and launched() > 1 else ()

    def finish(self, report: TrainReport) -> None:
        """Write the report, which ends the run."""
        facts = {**asdict(report), "share": report.share, "result": report.result.name}
        replace_json(self.path / "report.json", {k: v for k, v in facts.items() if k != "output"})
        self.settle()


#: What may change between starts: the result stays the same (but for rounding), or a fingerprint is compared.
_MAY_CHANGE = {
    "log_every",
    "save_every",
    "keep_checkpoints",
    "micro_batch_size",
    "gradient_checkpointing",
    "compile",
    "verify_frozen",
    "deepspeed",
    "fsdp",
    "samples",
    "trackers",
    "model",
    "corpus",
    "instructions",
}


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    for key in [key for key in ("recipe", "model", "rope", "tokenizer", "data") if key in new]:
        before, now = old.get(key), new[key]
        if key == "rope":
            if before is None or before == now:  # none: begun by an earlier version
                continue
            return f"RoPE ({rope_in_words(before)} there, {rope_in_words(now)} now)"
        if key == "recipe" and isinstance(before, dict):
            before, now = (
                {k: v for k, v in completed(r).items() if k not in _MAY_CHANGE} for r in (before, now)
            )
        if before == now:
            continue
        if key in ("model", "tokenizer") and "recipe" in old and "recipe" in new:
            there, here = (facts["recipe"].get("model") for facts in (old, new))
            whose, changed = "" if key == "model" else "that of ", " with other files" * (there == here)
            return f"{key} ({whose}{there} there, {whose}{here}{changed} now)"
        if key == "data" and old.get("trained_on"):
            return f"data ({told(old['trained_on'])} there, {told(new.get('trained_on'))} now)"
        if not isinstance(now, dict) or not isinstance(before, dict):
            return key
        names = []
        while isinstance(now, dict) and isinstance(before, dict):  # into `lora` and `evaluate`
            names.append(next(name for name in {**now, **before} if now.get(name) != before.get(name)))
            now, before = now.get(names[-1]), before.get(names[-1])
        return f"{'.'.join(names)} ({json.dumps(before)} there, {json.dumps(now)} now)"
    return None
