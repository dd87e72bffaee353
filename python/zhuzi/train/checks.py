"""What can be known of a run before torch is loaded: whether it is possible, what it does and writes."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from itertools import islice

from zhuzi._process import launched
from zhuzi._show import count
from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError, RecipeError
from zhuzi.infer.generate import require_room as require_positions
from zhuzi.infer.template import Message
from zhuzi.infer.templates import template_named
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder
from zhuzi.model.positions import positions, unscaled_positions
from zhuzi.record.disk import require_space
from zhuzi.train.recipe import PretrainRecipe, Recipe, SftRecipe
from zhuzi.train.sharding import require_divisible

#: PEFT keeps the untrained matrix next to the one it trains (`modules_to_save`); it is never used.
FROZEN_COPY = ".original_module."

#: What PEFT puts between a module's name and its parameter's.
_WRAPPING = re.compile(
    r"(\.modules_to_save\.default)?\.weight$|(\.token_adapter)?\.trainable_tokens_delta\.default$"
)

#: The name under which a folder stores a module's matrix.
STORED_AS = {"embed_tokens": EMBEDDING, "lm_head": HEAD}

#: Documents of each of `evaluate.texts` that are measured.
_DOCUMENTS = 64


def require_possible(recipe: Recipe, folder: ModelFolder) -> None:
    """Raise `RecipeError` if the recipe asks for what this model or machine does not have."""
    micro_batch(recipe)
    require_divisible(recipe, launched())
    if recipe.fsdp and folder.tied:
        raise RecipeError(
            f"fsdp: head and embedding of {folder.path} are one matrix, which FSDP would divide as two; "
            "write deepspeed: zero-2"
        )
    old_rows(recipe, folder)
    texts_to_measure(recipe)
    trackers_of(recipe)
    _require_room_for_samples(recipe, folder)
    most = positions(folder.config)
    if most is not None and recipe.sequence_length > most:
        factor = math.ceil(recipe.sequence_length / (unscaled_positions(folder.config) or most))
        raise RecipeError(
            f"sequence_length: {recipe.sequence_length} exceeds the {most} positions of {folder.path} "
            f"(its max_position_embeddings); write {most} or less, or scale its RoPE: `zhuzi model extend "
            f"--model {folder.path} --rope linear:{factor} --out NEW`"
        )
    if recipe.lora is None:
        return
    present = {module_of(name) for name, info in folder.tensors.items() if len(info.shape) == 2}
    present -= {"embed_tokens", *(["lm_head"] if folder.tied else [])}
    for target in recipe.lora.targets:
        if target not in present:  # PEFT fails only if none is
            raise RecipeError(
                f"lora.targets: the model has no matrix {target!r} to adapt; it has "
                f"{', '.join(sorted(present))}"
            )


def texts_to_measure(recipe: Recipe) -> dict[str, list[str]]:
    """The first documents of each of `evaluate.texts`, by the file's name, or its path if two have one name.

    Raises:
        RecipeError: a file cannot be read, or has no text.
    """
    paths = () if recipe.evaluate is None else recipe.evaluate.texts
    names = [path.name for path in paths]
    texts = {}
    for path in paths:
        name = path.name if names.count(path.name) == 1 else str(path)
        try:
            texts[name] = list(islice(read_texts(path), _DOCUMENTS))
        except (OSError, ValueError, InputError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RecipeError(f"evaluate.texts: {path}: cannot be read ({reason})") from error
        if not texts[name]:
            raise RecipeError(f"evaluate.texts: {path}: contains no text to measure; leave it out")
    return texts


def trackers_of(recipe: Recipe) -> tuple[str, ...]:
    """Where figures are sent: what the recipe names, or TensorBoard if it is installed.

    Raises:
        RecipeError: one that is named is not installed.
    """
    if recipe.trackers is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    for name in recipe.trackers:
        if not find_spec(name):
            raise RecipeError(
                f"trackers: {name} is not installed; install it (pip install {name}), or leave it out"
            )
    return recipe.trackers


def _require_room_for_samples(recipe: Recipe, folder: ModelFolder) -> None:
    """Raise `RecipeError` if a prompt of `samples` leaves no room for an answer."""
    tokenizer = folder.tokenizer
    for prompt in () if recipe.samples is None else recipe.samples.prompts:
        try:
            if isinstance(recipe, SftRecipe):
                ids = template_named(recipe.template).prompt(tokenizer, [Message("user", prompt)])
            else:
                ids = tokenizer.encode(prompt, add_bos=True)
            require_positions(positions(folder.config), len(ids))
        except (InputError, ValueError) as error:
            raise RecipeError(f"samples.prompts: {prompt[:40]!r}: {error}") from error


def old_rows(recipe: Recipe, folder: ModelFolder) -> int:
    """Leading rows of embedding and head that do not train: none with `vocabulary: full`.

    Raises:
        RecipeError: `new-rows`, and neither the model's record nor the recipe tells them, or none are new.
    """
    if recipe.vocabulary == "full":
        return 0
    recorded, given = folder.original_rows, recipe.original_rows
    if recorded is None and given is None:
        raise RecipeError(
            f"vocabulary: nothing tells how many rows of {folder.path} are its first base's; write "
            "original_rows: 32000 if that was LLaMA or Llama 2"
        )
    if None not in (recorded, given) and recorded != given:
        raise RecipeError(f"original_rows: {given}, but {folder.path} records {recorded}; leave it out")
    rows = given if recorded is None else recorded
    assert rows is not None
    if rows >= folder.rows:
        raise RecipeError(
            f"vocabulary: {folder.path} has {folder.rows} rows, and {rows} are its first base's: none is "
            "new; extend it first (`zhuzi model extend`), or write vocabulary: full"
        )
    return rows


def steps_of(recipe: Recipe, examples: int) -> int:
    """Optimiser steps of a run: as given, or as many as show each of the examples in `epochs` epochs."""
    if recipe.epochs is None:
        assert recipe.steps is not None
        return recipe.steps
    return max(1, math.ceil(recipe.epochs * examples / recipe.batch_size))


def why_nothing_trains(recipe: Recipe, steps: int) -> str | None:
    """What is wrong with a run whose every step has a learning rate of 0; None if nothing is."""
    # The warm-up counts from 0, as the published code has it: its first step changes nothing.
    if steps > 1 or recipe.warmup == 0:
        return None
    longer = "steps" if recipe.epochs is None else "epochs"
    return (
        "the only step is the first of the warm-up, with a learning rate of 0: nothing trains; write "
        f"warmup: 0, or more {longer}"
    )


def micro_batch(recipe: Recipe, devices: int | None = None) -> tuple[int, int]:
    """Sequences per forward on one device, and forwards per step; on torchrun's devices if none are given."""
    devices = devices or launched()
    micro = recipe.micro_batch_size or recipe.batch_size // devices
    if micro == 0 or recipe.batch_size % (micro * devices):
        raise RecipeError(
            f"batch_size {recipe.batch_size} is not a multiple of micro_batch_size {micro} x {devices} "
            "devices"
        )
    return micro, recipe.batch_size // (micro * devices)


def require_room(recipe: Recipe, folder: ModelFolder) -> None:
    """Raise `OSError` (ENOSPC) unless the disk of the output has room for a checkpoint and the result."""
    require_space(recipe.output, checkpoint_bytes(recipe, folder) + result_bytes(recipe, folder))


def checkpoint_bytes(recipe: Recipe, folder: ModelFolder) -> int:
    """Bytes of a checkpoint: what trains, in fp32, and AdamW's two moments."""
    return 3 * _trained_bytes(recipe, folder)


def result_bytes(recipe: Recipe, folder: ModelFolder) -> int:
    """Bytes of the result: the whole model in its own type, or the adapter in fp32."""
    if recipe.lora is None:
        return sum(info.end - info.begin for info in folder.tensors.values())
    return _trained_bytes(recipe, folder)


def _trained_bytes(recipe: Recipe, folder: ModelFolder) -> int:
    trained = 0
    for name in trained_matrices(recipe, tied=folder.tied):
        rows, width = folder.tensors[STORED_AS[name]].shape
        trained += (rows - old_rows(recipe, folder)) * width
    if recipe.lora is not None:
        shapes = [t.shape for n, t in folder.tensors.items() if module_of(n) in recipe.lora.targets]
        trained += sum(recipe.lora.rank * sum(shape) for shape in shapes if len(shape) == 2)
    return 4 * trained


def trained_matrices(recipe: Recipe, *, tied: bool) -> list[str]:
    """Modules whose matrices are trained, whole or the new rows. A tied head is the embedding, not named."""
    return ["embed_tokens"] if tied and recipe.modules_to_save else list(recipe.modules_to_save)


def module_of(name: str) -> str:
    """The module a parameter belongs to, without PEFT's wrapping: `embed_tokens`, `q_proj`, ..."""
    if FROZEN_COPY in name or ".lora_" in name:
        return ""
    return _WRAPPING.sub("", name).rpartition(".")[2]


def in_words(recipe: PretrainRecipe | SftRecipe, folder: ModelFolder) -> str:
    """One line that describes a run."""
    matrices = trained_matrices(recipe, tied=folder.tied)
    new = (
        f"{folder.rows - old_rows(recipe, folder):,} new rows of " if recipe.vocabulary == "new-rows" else ""
    )
    parts = [*(["LoRA"] if recipe.lora is not None else []), *(new + name for name in matrices)]
    return (
        f"{recipe.task}: {' + '.join(parts)} of {folder.path} ({folder.rows:,} rows) on "
        f"{', '.join(map(str, recipe.data))}, "
        f"{_length(recipe)} of {count(recipe.batch_size, 'sequence')} of "
        f"{recipe.sequence_length:,} tokens, to {recipe.output}"
    )


def _length(recipe: Recipe) -> str:
    if recipe.steps is not None:
        return count(recipe.steps, "step")
    return f"{recipe.epochs:g} {'epoch' if recipe.epochs == 1 else 'epochs'} in steps"
