"""Instruction tuning on Alpaca records, with the published prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhuzi.model.folder import ModelFolder
from zhuzi.train.checks import require_possible
from zhuzi.train.data import PadRecords, Records, digest_files, open_records
from zhuzi.train.packing import PackedRecords, PadBlocks
from zhuzi.train.recipe import SftRecipe, resolve_recipe
from zhuzi.train.run import Run, TrainReport
from zhuzi.train.state import TrainCallback, require_callbacks


def sft(
    recipe: SftRecipe | str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[TrainCallback] = (),
    progress: bool | None = None,
) -> TrainReport:
    """Tune a model on instructions, as the recipe says; resume a run that was interrupted.

    The loss is only on the output and its EOS (`zhuzi.train.data.Records`). Arguments as in `pretrain`.

    Raises:
        RecipeError: the recipe is invalid.
        InputError: a record cannot be read (the message names file and place).
        MismatchError: the tokenizer's ids exceed the model's rows.
        OutputExistsError: the output folder contains something else.
        TrainingError: no record remains, or a loss is not finite.
        TrainingInterrupted: a signal came; a checkpoint was written, from which the next call resumes.
        OSError: the disk has no room for a checkpoint or the result.
    """
    source = Path(recipe) if isinstance(recipe, str | Path) else None
    require_callbacks(callbacks)
    recipe = resolve_recipe(recipe, SftRecipe)
    folder = ModelFolder.open(recipe.model)
    folder.require_rows()
    require_possible(recipe, folder)
    open_records(recipe.instructions)  # missing files are refused before anything is announced
    facts = Run.prepare(recipe, folder, overwrite=overwrite, source=source)
    records = Records(recipe.instructions, folder.tokenizer, recipe.sequence_length)
    data = digest_files(records.files)
    with Run.open(recipe, folder, facts, data, overwrite=overwrite, source=source) as run:
        done = run.finished(overwrite)
        if done is not None:
            return done
        from zhuzi.train.stage import train_stage

        dataset: Any = records
        collate: Any = PadRecords(folder.tokenizer)
        if recipe.packing:
            dataset = PackedRecords(records, recipe.sequence_length, recipe.seed, recipe.batch_size)
            collate = PadBlocks(collate.pad)
        return train_stage(
            recipe,
            folder,
            run,
            dataset,
            collate,
            callbacks=callbacks,
            progress=progress,
            counts={
                "left_out": records.left_out,
                "empty_outputs": records.empty_outputs,
                "cut": records.cut,
                "unread_keys": dict(records.unread_keys),
            },
        )
