"""Pre-training on an encoded corpus: stage 1 (embedding alone) and stage 2 (LoRA, embedding and head)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zhuzi.errors import MismatchError
from zhuzi.model.folder import ModelFolder
from zhuzi.shards import Corpus
from zhuzi.train.checks import require_possible
from zhuzi.train.data import Blocks, collate_blocks
from zhuzi.train.recipe import PretrainRecipe, resolve_recipe
from zhuzi.train.run import Run, TrainReport


def pretrain(
    recipe: PretrainRecipe | str | Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    progress: bool | None = None,
) -> TrainReport:
    """Train a model on the blocks of a corpus, as the recipe says; go on where a killed run stopped.

    Which parameters train, and the published figures, are in the recipes; the method is that of Cui, Yang,
    Yao 2023 (arXiv 2304.08177).

    Args:
        recipe: a recipe, or the path of its YAML file.
        overwrite: remove what the output folder holds and start anew.
        callbacks: more `transformers.TrainerCallback`s.
        progress: a bar (true), no word of single steps (false), or, by default, a bar on a terminal and in a
            notebook, and elsewhere lines: to the log, or to stderr where no logging is set up.

    Raises:
        RecipeError: the recipe cannot be.
        MismatchError: the corpus was encoded by another tokenizer than the model's, or ids exceed its rows.
        OutputExistsError: the output folder holds something else.
        TrainingError: too few tokens, or a loss that is no number.
        OSError: the disk has no room for a checkpoint or the result.
    """
    # torch and transformers take seconds to load: whatever can be refused without them is, first.
    source = Path(recipe) if isinstance(recipe, str | Path) else None
    recipe = resolve_recipe(recipe, PretrainRecipe)
    folder = ModelFolder.open(recipe.model)
    corpus = Corpus(recipe.corpus)
    folder.require_rows()
    require_possible(recipe, folder)
    if corpus.tokenizer_fingerprint != folder.tokenizer.fingerprint:
        raise MismatchError(
            f"{corpus.path}: encoded by another tokenizer ({corpus.vocab_size} ids) than {folder.path}'s "
            f"({folder.tokenizer.vocab_size} ids); encode it with --tokenizer {folder.path}"
        )
    facts = Run.prepare(recipe, folder, overwrite=overwrite, source=source)
    blocks = Blocks(corpus, recipe.sequence_length, folder.rows)
    with Run.open(recipe, folder, facts, corpus.fingerprint(), overwrite=overwrite, source=source) as run:
        done = run.finished(overwrite)
        if done is not None:
            return done
        from zhuzi.train.stage import train_stage

        return train_stage(
            recipe, folder, run, blocks, collate_blocks, callbacks=callbacks, progress=progress
        )
