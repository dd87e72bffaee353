"""One stage of training, from the opened folder to the finished output: what pretrain and sft share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainingArguments, set_seed

from zhuzi._process import is_main
from zhuzi.errors import TrainingError
from zhuzi.model.folder import ADAPTER_FILES, EMBEDDING, HEAD, ModelFolder
from zhuzi.record.disk import sha256
from zhuzi.record.output import new_folder
from zhuzi.record.provenance import write_record
from zhuzi.train.base import (
    compute_dtype,
    count_parameters,
    device_name,
    digest_tensors,
    load_for_training,
    trainable,
)
from zhuzi.train.checks import STORED_AS, micro_batch, module_of, old_rows, result_bytes
from zhuzi.train.recipe import Recipe
from zhuzi.train.run import Run, TrainReport
from zhuzi.train.trainer import LogLosses, OnSave, StageTrainer, checkpoints, losses, remove_partial, step_of


def train_stage(
    recipe: Recipe,
    folder: ModelFolder,
    run: Run,
    dataset: Any,
    collate: Callable[[Any], dict[str, torch.Tensor]],
    *,
    callbacks: Sequence[Any],
    progress: bool | None = None,
    counts: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train (from the last checkpoint if there is one), save the result, and report.

    `counts` are fields of the report about the data.
    """
    if not is_main():
        transformers.logging.set_verbosity_error()  # rank 0 has said it
    arguments = _arguments(recipe, run)
    set_seed(recipe.seed)  # LoRA's first values are drawn from here
    model = load_for_training(folder, recipe)
    names = [name for name, _ in trainable(model)]
    trained, parameters = count_parameters(model)
    before = digest_tensors(model) if recipe.verify_frozen else None

    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[LogLosses(run.path / "log.jsonl", progress), OnSave(run.settle), *callbacks],
        keep_checkpoints=recipe.keep_checkpoints,
    )
    if is_main():
        remove_partial(run.checkpoints)
    trainer.accelerator.wait_for_everyone()
    last = max(checkpoints(run.checkpoints), key=step_of, default=None)
    started = time.monotonic()
    trainer.run(last)
    seconds = time.monotonic() - started

    checked = None if before is None else _require_frozen(before, digest_tensors(model), names)
    history = losses(trainer.state)
    report = TrainReport(
        task=recipe.task,
        output=run.path,
        result=run.path / ("model" if recipe.lora is None else "adapter"),
        steps=trainer.state.global_step,
        losses=[(entry["step"], entry["loss"]) for entry in history],
        learning_rates=[(entry["step"], entry["learning_rate"]) for entry in history],
        tokens=trainer.state.num_input_tokens_seen,
        seconds=seconds,
        trainable=trained,
        parameters=parameters,
        trainable_names=names,
        resumed_from=None if last is None else step_of(last),
        frozen_checked=checked,
        device=device_name(),
        compute_dtype=str(compute_dtype()).removeprefix("torch."),
        **(counts or {}),
    )
    if is_main():
        _save(model, recipe, folder, report.result)
        run.finish(report)
    return report


def _arguments(recipe: Recipe, run: Run) -> Any:
    micro, forwards = micro_batch(recipe)
    compute = compute_dtype()
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        max_steps=recipe.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=forwards,
        optim="adamw_torch_fused",  # betas 0.9 and 0.999, as published; fused: 8 times faster on a CPU
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=compute == torch.bfloat16,
        fp16=compute == torch.float16,
        use_cpu=compute == torch.float32,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,  # StageTrainer stops instead of hiding them
        save_strategy="steps",
        save_steps=recipe.save_every,
        include_num_input_tokens_seen="non_padding" if recipe.task == "sft" else "all",
        remove_unused_columns=False,
        dataloader_pin_memory=compute != torch.float32,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
    )
    # One device per process, as torchrun starts them. By default the Trainer would use every GPU.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _require_frozen(before: dict[str, str], after: dict[str, str], trained: Sequence[str]) -> int:
    """The number of frozen tensors; `TrainingError` if one of them changed."""
    frozen = (set(before) | set(after)) - set(trained)
    changed = sorted(name for name in frozen if before.get(name) != after.get(name))
    if changed:
        raise TrainingError(f"training changed tensors that are frozen: {', '.join(changed)}")
    return len(frozen)


def _trained_matrices(model: Any, recipe: Recipe, folder: ModelFolder) -> dict[str, torch.Tensor]:
    """The matrices that trained, by their names in the folder and in its type; old rows as they were."""
    first = old_rows(recipe, folder)
    matrices = {}
    for name, parameter in trainable(model):
        stored = STORED_AS[module_of(name)]
        rows = parameter.detach().cpu().to(folder.dtype)
        matrices[stored] = torch.cat([folder.read(stored)[:first], rows]) if first else rows
    return matrices


def _save(model: Any, recipe: Recipe, folder: ModelFolder, out: Path) -> None:
    facts: dict[str, Any] = {
        "base": folder.describe(),
        "tokenizer": folder.tokenizer.fingerprint,
        "rows": folder.rows,
        "original_rows": folder.original_rows,
        "recipe": recipe.model_dump(mode="json"),
    }
    # A run killed between saving and its report saves its result again.
    with new_folder(out, overwrite=True, size=result_bytes(recipe, folder)) as made:
        if recipe.lora is None:
            trained = _trained_matrices(model, recipe, folder)
            if folder.tied and HEAD in folder.tensors:
                trained[HEAD] = trained[EMBEDDING].clone()
            folder.copy(made, trained)
            folder.tokenizer.save(made)
            write_record(made, "trained model", **facts)
        else:
            # Matrices trained whole are saved anyway; "auto" would ask the hub about the base.
            model.save_pretrained(made, save_embedding_layers=False)
            (made / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            # So that a merge detects an adapter that was damaged or edited.
            files = {name: sha256(made / name) for name in ADAPTER_FILES}
            write_record(made, "adapter", **facts, files=files)
