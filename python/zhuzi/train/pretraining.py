"""Pre-training on an encoded corpus: stage 1 (the embedding) and stage 2 (LoRA, embedding and head)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zhuzi.corpus.dataset import Corpus
from zhuzi.errors import MismatchError, naming
from zhuzi.model.folder import ModelFolder
from zhuzi.train.checks import require_possible
from zhuzi.train.data import Blocks, SeparateBlocks, collate_blocks, collate_separate
from zhuzi.train.mixture import Mixture
from zhuzi.train.origins import of_corpora
from zhuzi.train.recipe import PretrainRecipe
from zhuzi.train.run import Run, TrainReport
from zhuzi.train.stages import resolve_stages, run_stages
from zhuzi.train.state import TrainCallback, require_callbacks


def pretrain(
    recipe: PretrainRecipe | str | Path,
    *,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    callbacks: Sequence[TrainCallback] = (),
    progress: bool | None = None,
) -> TrainReport:
    """Train a model on the blocks of a corpus, as the recipe says; resume a run that was interrupted.

    The recipe says which parameters train; the published figures are in `recipes/`. The method is that of
    Cui, Yang, Yao 2023 (arXiv 2304.08177).

    Args:
        recipe: a recipe, the path of its YAML file, or the name of one of the package's. A file with `stages`
            trains each on the result of the one before; the report is that of the last.
        settings: `key=value` each, put over the recipe: `lora.rank=16`, see `load_recipe`.
        overwrite: remove what the output folder contains and start again.
        callbacks: told how the run goes, see `zhuzi.train.TrainCallback`.
        progress: True for a bar, False for no output per step. By default a bar on a terminal and in a
            notebook, elsewhere lines: to the log, or to stderr if logging is not set up.

    Raises:
        RecipeError: the recipe is invalid.
        MismatchError: the corpus was not encoded by the model's tokenizer, or ids exceed its rows.
        OutputExistsError: the output folder contains something else.
        TrainingError: there are too few tokens, or a loss is not finite.
        TrainingInterrupted: a signal came; a checkpoint was written, from which the next call resumes.
        OSError: the disk has no room for a checkpoint or the result.
    """
    # torch and transformers take seconds to load: whatever can be checked without them comes first.
    source = Path(recipe) if isinstance(recipe, str | Path) else None
    require_callbacks(callbacks)
    return run_stages(
        resolve_stages(recipe, PretrainRecipe, settings),
        lambda stage: _train(stage, source, overwrite, callbacks, progress),
    )


def _train(
    recipe: PretrainRecipe,
    source: Path | None,
    overwrite: bool,
    callbacks: Sequence[TrainCallback],
    progress: bool | None,
) -> TrainReport:
    folder, corpora, facts = prepare(recipe, overwrite=overwrite, source=source)
    kind = SeparateBlocks if recipe.separate_documents else Blocks
    blocks = Mixture(
        [kind(corpus, recipe.sequence_length, folder.rows) for corpus in corpora],
        list(recipe.corpora.values()),
    )
    with Run.open(recipe, folder, facts, overwrite=overwrite, source=source) as run:
        done = run.finished(overwrite)
        if done is not None:
            return done
        from zhuzi.train.stage import train_stage

        return train_stage(
            recipe,
            folder,
            run,
            blocks,
            collate_separate if recipe.separate_documents else collate_blocks,
            held_apart=_held_apart(recipe, blocks),
            callbacks=callbacks,
            progress=progress,
        )


def _held_apart(recipe: PretrainRecipe, blocks: Mixture) -> tuple[Any, Any] | None:
    """With several corpora or weights what trains, and what is held out; else `train_stage` splits.

    Of a block that is there several times, no copy may train if another is held out.
    """
    if len(blocks.parts) == 1 and not blocks.is_weighted:
        return None
    from zhuzi.train.evaluation import Subset, split

    _, held_out = split(blocks, recipe.evaluate, recipe.seed)
    held = () if held_out is None else held_out.indices
    return Subset(blocks, blocks.epoch(held, recipe.seed)), held_out


def prepare(
    recipe: PretrainRecipe, *, overwrite: bool = False, source: Path | None = None
) -> tuple[ModelFolder, list[Corpus], dict[str, Any]]:
    """All checks that need neither torch nor weights: the model, the corpora, and what run.json says of them.

    Raises what `pretrain` raises for the recipe, the model, the corpus, the output and the disk.
    """
    folder = ModelFolder.open(recipe.model)
    corpora = [Corpus(path) for path in recipe.corpora]
    folder.require_rows()
    require_possible(recipe, folder)
    for corpus in corpora:
        if corpus.tokenizer_fingerprint != folder.tokenizer.fingerprint:
            raise naming(
                MismatchError,
                f"{corpus.path}: encoded by another tokenizer ({corpus.vocab_size} ids) than {folder.path}'s "
                f"({folder.tokenizer.vocab_size} ids); encode it with ",
                ("tokenizer", str(folder.path)),
            )
    weights = list(recipe.corpora.values())
    origin = partial(of_corpora, corpora, weights)
    return folder, corpora, Run.prepare(recipe, folder, origin, overwrite=overwrite, source=source)
