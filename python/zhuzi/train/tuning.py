"""Instruction tuning on Alpaca records, with the published prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhuzi.model.folder import ModelFolder
from zhuzi.train.checks import require_possible
from zhuzi.train.data import PadRecords, Records, digest_files, open_records
from zhuzi.train.recipe import SftRecipe, resolve_recipe
from zhuzi.train.run import Run, TrainReport


def sft(
    recipe: SftRecipe | str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    progress: bool | None = None,
) -> TrainReport:
    """Tune a model on instructions, as the recipe says; go on where a killed run stopped.

    The loss is on the output and its EOS only (`zhuzi.train.data.Records`). Arguments as for `pretrain`.

    Raises:
        RecipeError: the recipe cannot be.
        InputError: a record that cannot be read (file and place named).
        MismatchError: the tokenizer's ids exceed the model's rows.
        OutputExistsError: the output folder holds something else.
        TrainingError: no record is left, or a loss that is no number.
        OSError: the disk has no room for a checkpoint or the result.
    """
    source = Path(recipe) if isinstance(recipe, str | Path) else None
    recipe = resolve_recipe(recipe, SftRecipe)
    folder = ModelFolder.open(recipe.model)
    folder.require_rows()
    require_possible(recipe, folder)
    open_records(recipe.instructions)  # refuses files that are not there before anything is announced
    facts = Run.prepare(recipe, folder, overwrite=overwrite, source=source)
    records = Records(recipe.instructions, folder.tokenizer, recipe.sequence_length)
    data = digest_files(records.files)
    with Run.open(recipe, folder, facts, data, overwrite=overwrite, source=source) as run:
        done = run.finished(overwrite)
        if done is not None:
            return done
        from zhuzi.train.stage import train_stage

        return train_stage(
            recipe,
            folder,
            run,
            records,
            PadRecords(folder.tokenizer),
            callbacks=callbacks,
            progress=progress,
            counts={
                "left_out": records.left_out,
                "empty_outputs": records.empty_outputs,
                "cut": records.cut,
                "unread_keys": dict(records.unread_keys),
            },
        )
