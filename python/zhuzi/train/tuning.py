"""Instruction tuning on conversations, by default Alpaca records with the published prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zhuzi.errors import TrainingError
from zhuzi.infer.template import ALPACA
from zhuzi.infer.templates import recorded_template, template_named
from zhuzi.model.folder import ModelFolder
from zhuzi.train.checks import require_possible
from zhuzi.train.data import PadRecords, Records
from zhuzi.train.origins import of_instructions
from zhuzi.train.packing import PackedRecords, PadBlocks
from zhuzi.train.progress import tell, warn
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.run import Run, TrainReport
from zhuzi.train.sources import SourceReader
from zhuzi.train.stages import resolve_stages, run_stages
from zhuzi.train.state import TrainCallback, require_callbacks


def sft(
    recipe: SftRecipe | str | Path,
    *,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    callbacks: Sequence[TrainCallback] = (),
    progress: bool | None = None,
) -> TrainReport:
    """Tune a model on instructions, as the recipe says; resume a run that was interrupted.

    The loss is only on the answers and their ends (`zhuzi.train.data.Records`). Arguments as in `pretrain`.

    Raises:
        RecipeError: the recipe is invalid.
        InputError: a record cannot be read (the message names file and place).
        MismatchError: the tokenizer's ids exceed the model's rows.
        OutputExistsError: the output folder contains something else.
        TrainingError: no record remains, or a loss is not finite.
        TrainingInterrupted: a signal came; a checkpoint was written, from which the next call resumes.
        OSError: the disk has no room for a checkpoint or the result.
    """
    source_file = Path(recipe) if isinstance(recipe, str | Path) else None
    require_callbacks(callbacks)
    return run_stages(
        resolve_stages(recipe, SftRecipe, settings),
        lambda stage: _train(stage, source_file, overwrite, callbacks, progress),
    )


def _train(
    recipe: SftRecipe,
    source_file: Path | None,
    overwrite: bool,
    callbacks: Sequence[TrainCallback],
    progress: bool | None,
) -> TrainReport:
    folder, facts = prepare(recipe, overwrite=overwrite, source=source_file)
    template = template_named(recipe.template)
    records = Records(
        recipe.sources,
        folder.tokenizer,
        recipe.sequence_length,
        template=template,
        on_error=recipe.on_error,
        train_on_prompt=recipe.train_on_prompt,
    )
    with Run.open(recipe, folder, facts, overwrite=overwrite, source=source_file) as run:
        done = run.finished(overwrite)
        if done is not None:
            return done
        from zhuzi.train.stage import train_stage

        dataset, held_apart = _examples(recipe, records)
        collate = PadRecords(folder.tokenizer)
        return train_stage(
            recipe,
            folder,
            run,
            dataset,
            PadBlocks(collate.pad) if recipe.packing else collate,
            held_apart=held_apart,
            template=template,
            callbacks=callbacks,
            progress=progress,
            counts={
                "left_out": records.left_out,
                "empty_outputs": records.empty_outputs,
                "cut": records.cut,
                "cut_answers": records.cut_answers,
                "unanswered": records.unanswered,
                "skipped": records.skipped,
                "unread_keys": dict(records.unread_keys),
            },
        )


def _examples(recipe: SftRecipe, records: Records) -> tuple[Any, tuple[Any, Any] | None]:
    """The examples; and with weights what of them trains, and what is held out.

    Of a record that is there several times, no copy may train if another is held out.
    """

    def packed(some: Any) -> Any:
        if not recipe.packing:
            return some
        return PackedRecords(some, recipe.sequence_length, recipe.seed, recipe.batch_size)

    if not records.is_weighted:
        return packed(records), None
    from zhuzi.train.evaluation import Subset, split

    chosen, held_out = split(records, recipe.evaluate, recipe.seed)
    indices = range(len(records)) if held_out is None else chosen.indices
    order = records.weighted(indices, recipe.seed)
    if not order:
        raise TrainingError("the weights of instructions leave no record; raise them")
    tell(f"{len(indices):,} records, {len(order):,} in an epoch by their weights")
    trains = packed(Subset(records, order))
    return trains, (trains, None if held_out is None else packed(held_out))


def prepare(
    recipe: SftRecipe, *, overwrite: bool = False, source: Path | None = None
) -> tuple[ModelFolder, dict[str, Any]]:
    """All checks that need neither torch nor weights nor records: the model, and what run.json says.

    Raises what `sft` raises for the recipe, the model, the output and the disk.
    """
    folder = ModelFolder.open(recipe.model)
    folder.require_rows()
    require_possible(recipe, folder)
    template = template_named(recipe.template)
    template.require(folder.tokenizer)
    before = recorded_template(folder.path)
    if before is not None and before.jinja != template.jinja:
        warn(
            f"{folder.path} was tuned with the template {before.name}, and this run uses {template.name}; "
            "`template` in the recipe names another"
        )
    # Missing files are refused before anything is announced.
    readers = [SourceReader(each, recipe.on_error) for each in recipe.sources]
    origin = partial(of_instructions, readers, "" if template is ALPACA else template.jinja)
    return folder, Run.prepare(recipe, folder, origin, overwrite=overwrite, source=source)
