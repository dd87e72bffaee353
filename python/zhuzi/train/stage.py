"""One stage of training, from the opened folder to the finished output: what pretrain and sft share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import set_seed

from zhuzi._process import is_main
from zhuzi.errors import TrainingError
from zhuzi.infer.template import Template
from zhuzi.infer.templates import describe
from zhuzi.model.ending import write_ending
from zhuzi.model.folder import ADAPTER_FILES, EMBEDDING, HEAD, ModelFolder
from zhuzi.record.disk import sha256
from zhuzi.record.output import new_folder
from zhuzi.record.provenance import kept_template, read_record, write_record
from zhuzi.train import eva
from zhuzi.train.base import (
    compute_dtype,
    count_parameters,
    device,
    device_name,
    digest_tensors,
    load_for_training,
    trainable,
)
from zhuzi.train.batches import Batches
from zhuzi.train.checkpoint import checkpoints
from zhuzi.train.checks import (
    STORED_AS,
    micro_batch,
    module_of,
    old_rows,
    result_bytes,
    steps_of,
    texts_to_measure,
)
from zhuzi.train.evaluation import Evaluation, split
from zhuzi.train.log import LogProgress
from zhuzi.train.loop import Loop
from zhuzi.train.plan import settings_that_fit
from zhuzi.train.processes import naming_lost_processes
from zhuzi.train.recipe import PretrainRecipe, Recipe, SftRecipe
from zhuzi.train.run import Run, TrainReport
from zhuzi.train.samples import Samples
from zhuzi.train.state import TrainCallback, TrainState
from zhuzi.train.trackers import Trackers


def train_stage(
    recipe: Recipe,
    folder: ModelFolder,
    run: Run,
    dataset: Any,
    collate: Callable[[Any], dict[str, torch.Tensor]],
    *,
    held_apart: tuple[Any, Any] | None = None,
    template: Template | None = None,
    callbacks: Sequence[TrainCallback],
    progress: bool | None = None,
    counts: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train (from the last checkpoint if there is one), save the result, and report.

    `held_apart` is what of the dataset trains, and what is held out (or None); by default `evaluate` draws
    it. `template` is that of the conversations of `sft`. `counts` are fields of the report about the data.
    """
    if not is_main():
        transformers.logging.set_verbosity_error()  # rank 0 has said it
    set_seed(recipe.seed)  # LoRA's first values are drawn from here
    with _advising(run.recipe, folder), naming_lost_processes():
        examples, held_out = held_apart or split(dataset, recipe.evaluate, recipe.seed)
        micro, _ = micro_batch(recipe)
        logs, evaluation = LogProgress(run.path / "log.jsonl", progress), None
        if recipe.evaluate is not None:
            evaluation = Evaluation(
                *(held_out, texts_to_measure(recipe), collate, folder.tokenizer),
                micro=micro,
                context=recipe.sequence_length,
                told=logs.evaluating,
            )
        if recipe.epochs is not None:
            run.require_steps(steps_of(recipe, len(examples)), len(examples))
        model = load_for_training(folder, recipe)
        if recipe.lora is not None and recipe.lora.init == "eva" and not checkpoints(run.checkpoints):
            eva.initialise(model, Batches(examples, collate, recipe, micro), device(), compute_dtype())
        names = [name for name, _ in trainable(model)]
        trained, parameters = count_parameters(model)
        before = digest_tensors(model) if recipe.verify_frozen else None

        trackers = Trackers(recipe, run)
        samples = Samples(recipe, run, folder.tokenizer, progress, trackers.send_samples, template)
        told = [logs, trackers, samples, _Settle(run), *callbacks]
        loop = Loop(model, recipe, run, examples, collate, told, evaluation)
        started = time.monotonic()
        try:
            state = loop.train()
        finally:
            logs.close()
            trackers.close()
        seconds = time.monotonic() - started

        weights = loop.processes.weights()
        checked = None if before is None else _require_frozen(before, digest_tensors(model), names)
        report = TrainReport(
            task=recipe.task,
            output=run.path,
            result=run.path / ("model" if recipe.lora is None else "adapter"),
            steps=state.step,
            losses=[(entry["step"], entry["loss"]) for entry in state.history],
            learning_rates=[(entry["step"], entry["learning_rate"]) for entry in state.history],
            tokens=state.tokens,
            seconds=seconds,
            trainable=trained,
            parameters=parameters,
            trainable_names=names,
            evaluations=state.evaluations,
            resumed_from=loop.resumed_from,
            frozen_checked=checked,
            device=device_name(),
            compute_dtype=str(compute_dtype()).removeprefix("torch."),
            **(counts or {}),
        )
        if is_main():
            _save(model, weights, folder, run, report.result, template)
            run.finish(report)
        return report


@contextmanager
def _advising(recipe: PretrainRecipe | SftRecipe, folder: ModelFolder) -> Iterator[None]:
    """Turn an error of memory into one that says what would need less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"{device_name()}: out of memory; {_smaller(recipe, folder)}") from error


def _smaller(recipe: PretrainRecipe | SftRecipe, folder: ModelFolder) -> str:
    """What a recipe can change to need less memory: what its plan says, or all that there is."""
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(device()).total_memory
        fitting = settings_that_fit(recipe, folder.path, memory)
        if fitting:
            return f"write {', '.join(fitting)} into the recipe; with that its plan fits"
    micro, _ = micro_batch(recipe)
    changes = [
        *(["gradient_checkpointing: true"] if not recipe.gradient_checkpointing else []),
        *([f"micro_batch_size: {micro // 2}"] if micro > 1 and recipe.batch_size % (micro // 2) == 0 else []),
        *(["vocabulary: new-rows"] if recipe.vocabulary == "full" and recipe.modules_to_save else []),
        *(
            [f"base_bits: {8 if recipe.base_bits == 16 else 4}"]
            if recipe.base_bits > 4 and not recipe.fsdp
            else []
        ),
        *(["optimizer: paged-adamw-8bit"] if recipe.optimizer == "adamw" and not recipe.is_divided else []),
    ]
    if not changes:
        return f"lower sequence_length ({recipe.sequence_length}), or use a larger GPU"
    return f"write {', then '.join(changes)} into the recipe"


class _Settle(TrainCallback):
    """After the first checkpoint, the run that this one replaced is no longer needed."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save(self, state: TrainState, checkpoint: Path) -> None:
        self.run.settle()


def _require_frozen(before: dict[str, str], after: dict[str, str], trained: Sequence[str]) -> int:
    """The number of frozen tensors; `TrainingError` if one of them changed."""
    frozen = (set(before) | set(after)) - set(trained)
    changed = sorted(name for name in frozen if before.get(name) != after.get(name))
    if changed:
        raise TrainingError(f"training changed tensors that are frozen: {', '.join(changed)}")
    return len(frozen)


def _trained_matrices(
    weights: Mapping[str, torch.Tensor], recipe: Recipe, folder: ModelFolder
) -> dict[str, torch.Tensor]:
    """The matrices that trained, by their names in the folder and in its type; old rows as they were."""
    first = old_rows(recipe, folder)
    matrices = {}
    for name, weight in weights.items():
        stored = STORED_AS[module_of(name)]
        rows = weight.cpu().to(folder.dtype)
        matrices[stored] = torch.cat([folder.read(stored)[:first], rows]) if first else rows
    return matrices


def _save(
    model: Any,
    weights: dict[str, torch.Tensor],
    folder: ModelFolder,
    run: Run,
    out: Path,
    template: Template | None,
) -> None:
    recipe = run.recipe
    tuned = kept_template(read_record(folder.path))
    if template is not None:
        tuned = {"template": describe(template, folder.tokenizer)}
    facts: dict[str, Any] = {
        "base": folder.describe(),
        "tokenizer": folder.tokenizer.fingerprint,
        "rows": folder.rows,
        "original_rows": folder.original_rows,
        **run.origins,
        **tuned,
    }
    # A run killed between saving and its report saves its result again.
    with new_folder(out, overwrite=True, size=result_bytes(recipe, folder)) as made:
        if recipe.lora is None:
            trained = _trained_matrices(weights, recipe, folder)
            if folder.tied and HEAD in folder.tensors:
                trained[HEAD] = trained[EMBEDDING].clone()
            folder.copy(made, trained)
            folder.tokenizer.save(made)
            write_ending(made, folder.tokenizer, tuned.get("template"))
            write_record(made, "trained model", **facts)
        else:
            # Matrices trained whole are saved anyway; "auto" would ask the hub about the base.
            whole = {"state_dict": weights} if recipe.fsdp else {}
            model.save_pretrained(made, save_embedding_layers=False, **whole)
            (made / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            # So that a merge detects an adapter that was damaged or edited.
            files = {name: sha256(made / name) for name in ADAPTER_FILES}
            write_record(made, "adapter", **facts, files=files)
