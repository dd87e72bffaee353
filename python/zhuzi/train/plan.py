"""What a run will be, before anything is loaded: parameters, memory, steps, hours, and what would fit."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhuzi._process import has_gpu, launched
from zhuzi._show import Report, count
from zhuzi.errors import InputError, RecipeError
from zhuzi.model.folder import read_json
from zhuzi.record.provenance import read_record
from zhuzi.train.checks import micro_batch, steps_of, why_nothing_trains
from zhuzi.train.memory import Memory, Parts, memory_of
from zhuzi.train.recipe import PretrainRecipe, Recipe, SftRecipe
from zhuzi.train.shape import KNOWN, LLAMA_ROWS, Shape, known_shape, read_shape, with_rows

#: Beside what torch allocates on a GPU: the CUDA context, libraries' workspaces, the gaps between blocks.
RESERVED = 768 << 20
#: On a CPU: what glibc's heap keeps of freed memory, as shares of gradients, activations and logits, without
#: and with checkpointing. Fitted to small models, as `tests/training/test_plan.py` has them.
HEAP = (0.35, 1.1)

#: Rows of the published vocabulary (Cui, Yang, Yao 2023, arXiv 2304.08177); tuning has `[PAD]` too.
_PUBLISHED_ROWS = {"pretrain": 49_953, "sft": 49_954}

_UNITS = {"": 1, "B": 1, **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}} | {
    f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)
}


@dataclass(frozen=True, repr=False)
class Plan(Report):
    """What a run will be."""

    recipe: PretrainRecipe | SftRecipe
    first_model: str  # that of the first stage
    shape: Shape
    assumed: tuple[str, ...]  # what was not known, and what was taken for it
    trainable: int
    parameters: int  # all, LoRA's included
    memory: Memory  # of one device
    on_gpu: bool
    gpus: int
    micro_batch: int  # sequences per forward on one device
    forwards: int  # per step
    gpu_memory: int | None  # bytes that one GPU has
    fits: bool | None
    changes: tuple[str, ...]  # settings with which it would fit; none if it fits or nothing does
    steps: int | None
    tokens: int | None  # in all steps, at most
    epochs: float | None
    tokens_per_second: float | None  # of all GPUs together
    hours: float | None

    @property
    def share(self) -> float:
        """Share of all parameters that train, 0 to 1."""
        return self.trainable / self.parameters

    @property
    def needed(self) -> int:
        """Bytes that one device must have: the peak, and what is reserved beside it."""
        return self.memory.peak + self.reserved

    @property
    def reserved(self) -> int:
        """Bytes beside the peak: the CUDA context and gaps between blocks, or what a CPU's heap keeps."""
        if self.on_gpu:
            return RESERVED
        return int(HEAP[self.recipe.gradient_checkpointing] * (self.memory.peak - self.memory.fixed))

    def _headline(self) -> str:
        return f"{self.share:.2%} trained, {gib(self.needed)} {self._device}"

    @property
    def _device(self) -> str:
        return "per GPU" if self.on_gpu else "on the CPU"

    def lines(self) -> Iterator[str]:
        """As text, one figure a line."""
        yield f"model          {self.shape.name}, {self.shape.rows:,} rows"
        for line in self.assumed:
            yield f"  assumed      {line}"
        yield f"trainable      {self.trainable:,} of {self.parameters:,} parameters ({self.share:.2%})"
        yield f"memory         {gib(self.needed)} {self._device}, at the fullest moment of a step"
        for name, size in self._parts():
            yield f"  {name:<12} {gib(size):>10}"
        yield f"batch          {self._batch()}"
        if self.steps is not None and self.tokens is not None:
            epochs = ""
            if self.epochs is not None:
                epochs = f", {self.epochs:{'.2f' if self.epochs >= 0.01 else '.1g'}} epochs"
            most = "at most " if self.recipe.task == "sft" else ""
            yield f"length         {count(self.steps, 'step')}, {most}{count(self.tokens, 'token')}{epochs}"
            if why := why_nothing_trains(self.recipe, self.steps):
                yield f"  warning      {why}"
        if self.hours is not None:
            yield f"time           {self.hours:,.1f} hours at {self.tokens_per_second:,.0f} tokens/s"
        if self.fits is not None and self.gpu_memory is not None:
            yield f"fits           {'yes' if self.fits else 'no'}: {gib(self.gpu_memory)} per GPU"
            if self.changes:
                yield "  to make it fit, write"
                yield from (f"    {change}" for change in self.changes)
            elif not self.fits:
                yield "  no setting makes it fit: use a larger GPU, or a smaller model"

    def brief(self) -> str:
        """In one line, for the start of a run."""
        parts = ", ".join(f"{name} {gib(size)}" for name, size in self._parts())
        return (
            f"plan: {self.trainable:,} of {self.parameters:,} parameters train ({self.share:.2%}); "
            f"{gib(self.needed)} {self._device} ({parts})"
        )

    def _parts(self) -> list[tuple[str, int]]:
        return [*asdict(self.memory).items(), ("reserved", self.reserved)]

    def _batch(self) -> str:
        return (
            f"{count(self.recipe.batch_size, 'sequence')} of {self.recipe.sequence_length:,} tokens: "
            f"{self.gpus} x {self.forwards} x {self.micro_batch}"
        )

    def as_json(self) -> dict[str, Any]:
        """All figures; bytes, tokens and hours."""
        held = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("recipe", "shape", "memory")
        }
        return {
            "model": asdict(self.shape),
            **held,
            "share": self.share,
            "memory": {**asdict(self.memory), "peak": self.memory.peak, "needed": self.needed},
            "recipe": self.recipe.model_dump(mode="json"),
        }


def plan_run(
    recipe: PretrainRecipe | SftRecipe,
    *,
    config: str | Path | Plan | None = None,
    rows: int | None = None,
    gpus: int | None = None,
    gpu_memory: int | None = None,
    speed: float | str | Path | None = None,
) -> Plan:
    """Say what a run needs and does, from the settings of its model alone.

    Args:
        config: one of `llama-7b`, `llama-13b`, `llama-33b`, `llama-65b`, a config.json, or a model folder; by
            default the recipe's `model`. If that is not there and its name holds a size (`7b`), LLaMA's shape
            of that size is taken, and said. A plan: what the recipe trains is that plan's result.
        rows: of the embedding; by default those of the settings.
        gpus: None plans for one GPU if there is one here or `gpu_memory` is given, else for the CPU.
        gpu_memory: bytes of one GPU, to be told whether it fits, and what would.
        speed: tokens a second of all GPUs together, or the folder of a run that measured it.

    Raises:
        InputError: the model's settings cannot be read, or are of a kind that is not known.
        RecipeError: the batch cannot be divided, or LoRA's targets are not the model's.
    """
    shape, assumed = _shape(recipe, config, rows)
    first = config.first_model if isinstance(config, Plan) else recipe.model
    old_rows, more = _old_rows(recipe, shape, first)
    on_gpu = gpus is not None or gpu_memory is not None or has_gpu()
    gpus = gpus or 1
    micro, forwards = micro_batch(recipe, gpus)
    parts = Parts(shape, recipe, old_rows, on_gpu)
    _require_targets(recipe, shape)
    memory = memory_of(parts, micro=micro, accumulated=forwards > 1, gpus=gpus)
    fits: bool | None = None
    changes: tuple[str, ...] = ()
    if gpu_memory is not None:
        fits = memory.peak + RESERVED <= gpu_memory
        changes = () if fits else _changes(recipe, shape, old_rows, gpus, gpu_memory)
    steps, epochs, unknown = _length(recipe)
    tokens = None if steps is None else steps * recipe.batch_size * recipe.sequence_length
    rate = None if speed is None else _speed(speed)
    return Plan(
        recipe=recipe,
        first_model=first,
        shape=shape,
        assumed=(*assumed, *more, *unknown),
        trainable=parts.trainable,
        parameters=parts.parameters,
        memory=memory,
        on_gpu=on_gpu,
        gpus=gpus,
        micro_batch=micro,
        forwards=forwards,
        gpu_memory=gpu_memory,
        fits=fits,
        changes=changes,
        steps=steps,
        tokens=tokens,
        epochs=epochs,
        tokens_per_second=rate,
        hours=None if rate is None or tokens is None else tokens / rate / 3600,
    )


def brief_plan(recipe: PretrainRecipe | SftRecipe, folder: Path) -> str | None:
    """The plan of a run that starts on torchrun's devices, in one line; none if its kind is not known."""
    try:
        return plan_run(recipe, config=folder, gpus=launched() if has_gpu() else None).brief()
    except InputError:
        return None


def settings_that_fit(recipe: PretrainRecipe | SftRecipe, folder: Path, gpu_memory: int) -> tuple[str, ...]:
    """With which settings a run on torchrun's devices would fit; none if it should, or nothing does."""
    try:
        return plan_run(recipe, config=folder, gpus=launched(), gpu_memory=gpu_memory).changes
    except InputError:  # a kind of model that is not known
        return ()


def plan_stages(stages: Sequence[PretrainRecipe | SftRecipe], **options: Any) -> list[Plan]:
    """The plans of stages that follow each other; `options` as in `plan_run`."""
    plans: list[Plan] = []
    for recipe in stages:
        if plans and not (Path(recipe.model) / "config.json").is_file():
            options = {**options, "config": plans[-1]}
        plans.append(plan_run(recipe, **options))
    return plans


def gib(size: int) -> str:
    """Bytes as GiB; small ones as MiB."""
    if size == 0:
        return "0"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 // 10 else f"{size / 2**20:.2f} MiB"


def bytes_of(text: str) -> int:
    """Bytes: `24GB` (10^9 each), `24GiB` (2^30 each), or a plain number.

    Raises:
        ValueError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text)
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise ValueError(f"{text!r}: want a size like 24GB or 80GiB")
    return int(float(found[1]) * _UNITS[found[2]])


def _shape(
    recipe: Recipe, config: str | Path | Plan | None, rows: int | None
) -> tuple[Shape, tuple[str, ...]]:
    """The model's shape, and what was assumed about it."""
    if isinstance(config, Plan):
        return with_rows(config.shape, rows), ()
    if config is not None:
        known = known_shape(str(config)) if str(config) in KNOWN else None
        if known is None:
            if not Path(config).exists():
                raise InputError(
                    f"{config}: no such file; name a config.json, a model folder, or one of "
                    f"{', '.join(KNOWN)}"
                )
            return with_rows(read_shape(Path(config)), rows), ()
        taken = rows or _PUBLISHED_ROWS[recipe.task]
        return with_rows(known, taken), _rows_assumed(taken, rows)
    folder = Path(recipe.model)
    if (folder / "config.json").is_file():
        return with_rows(read_shape(folder), rows), ()
    cached = _cached_config(recipe.model)
    if cached is not None:
        return with_rows(read_shape(cached), rows), ()
    known = known_shape(recipe.model)
    if known is None:
        raise InputError(
            f"{recipe.model}: holds no config.json yet; say which model it will be with --config: a "
            f"config.json, a model folder, or one of {', '.join(KNOWN)}"
        )
    taken = rows or _PUBLISHED_ROWS[recipe.task]
    told = f"{recipe.model} is not there: by its name {known.name} (--config names another)"
    return with_rows(known, taken), (told, *_rows_assumed(taken, rows))


def _rows_assumed(taken: int, given: int | None) -> tuple[str, ...]:
    return () if given else (f"{taken:,} rows, as published (--rows gives another number)",)


def _cached_config(model: str) -> Path | None:
    """The config.json of a hub id that was fetched before; nothing is fetched here."""
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no hub id
        return None
    return Path(found) if isinstance(found, str) else None


def _old_rows(recipe: Recipe, shape: Shape, model: str) -> tuple[int, tuple[str, ...]]:
    """Leading rows that do not train, and what was assumed about them."""
    if recipe.vocabulary == "full":
        return 0, ()
    record = read_record(Path(model)) if Path(model).is_dir() else None
    recorded = (record or {}).get("original_rows")
    rows = recipe.original_rows or (recorded if isinstance(recorded, int) else LLAMA_ROWS)
    told = recipe.original_rows or isinstance(recorded, int)
    if rows >= shape.rows:
        raise RecipeError(
            f"vocabulary: new-rows, but the model has {shape.rows} rows and {rows} are its first base's: "
            "none is new"
        )
    return rows, () if told else (f"the first base had {rows:,} rows (original_rows says otherwise)",)


def _require_targets(recipe: Recipe, shape: Shape) -> None:
    known = {*shape.matrices, *(() if shape.tied else ("lm_head",))}
    for target in () if recipe.lora is None else recipe.lora.targets:
        if target not in known:
            raise RecipeError(
                f"lora.targets: the model has no matrix {target!r} to adapt; it has "
                f"{', '.join(sorted(known))}"
            )


def _length(recipe: PretrainRecipe | SftRecipe) -> tuple[int | None, float | None, tuple[str, ...]]:
    """Steps, epochs, and what is not known of them."""
    examples = _examples(recipe)
    if examples is None:
        if recipe.steps is None:
            return None, recipe.epochs, (f"{recipe.epochs:g} epochs: of how many steps, the data tell",)
        return recipe.steps, None, ()
    if recipe.evaluate is not None:
        examples -= min(int(recipe.evaluate.share * examples), recipe.evaluate.max_examples)
    steps = steps_of(recipe, examples)
    return steps, steps * recipe.batch_size / examples, ()


def _examples(recipe: PretrainRecipe | SftRecipe) -> int | None:
    """Blocks of the corpus, by its manifest; for records and a corpus that is not there, not known."""
    if not isinstance(recipe, PretrainRecipe):
        return None
    blocks = 0
    for folder, weight in recipe.corpora.items():
        manifest = folder / "manifest.json"
        tokens = read_json(manifest).get("tokens") if manifest.is_file() else None
        if not isinstance(tokens, int):
            return None
        blocks += round(weight * (tokens // recipe.sequence_length))
    return blocks or None


def _speed(given: float | str | Path) -> float:
    """Tokens a second: a number, or the median of what a run's log.jsonl has."""
    try:
        rate = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _measured(Path(given))  # type: ignore[arg-type]
    if not 0 < rate < float("inf"):
        raise ValueError(f"speed: {given}; want tokens a second, above 0")
    return rate


def _measured(run: Path) -> float:
    log = run / "log.jsonl"
    if not log.is_file():
        raise InputError(f"{run}: holds no log.jsonl; name the folder of a run, or give tokens a second")
    rates = []
    for line in log.read_text("utf-8", "replace").splitlines():
        try:
            rates.append(float(json.loads(line)["tokens_per_second"]))
        except (ValueError, TypeError, KeyError):
            continue  # an evaluation, or a line that was cut
    if not rates:
        raise InputError(f"{log}: has no tokens_per_second yet; give tokens a second")
    return statistics.median(rates)


def _changes(recipe: Recipe, shape: Shape, old_rows: int, gpus: int, available: int) -> tuple[str, ...]:
    """The first settings, from the least harm on, that together make a recipe fit; none if nothing does."""

    def fits(taken: Sequence[dict[str, Any]]) -> bool:
        changed = recipe.model_copy(update={key: value for change in taken for key, value in change.items()})
        first = old_rows if recipe.vocabulary == changed.vocabulary else min(LLAMA_ROWS, shape.rows - 1)
        micro, forwards = micro_batch(changed, gpus)
        parts = Parts(shape, changed, first, gpu=True)
        held = memory_of(parts, micro=micro, accumulated=forwards > 1, gpus=gpus)
        return held.peak + RESERVED <= available

    taken: list[dict[str, Any]] = []
    for change in _possible(recipe, gpus):
        taken.append(change)
        if fits(taken):
            break
    else:
        return ()
    for change in list(taken[:-1]):  # what a later change made unnecessary
        without = [held for held in taken if held is not change]
        if fits(without):
            taken = without
    final = {key: value for change in taken for key, value in change.items()}
    return tuple(f"{key}: {str(v).lower() if isinstance(v, bool) else v}" for key, v in final.items())


def _possible(recipe: Recipe, gpus: int) -> Iterable[dict[str, Any]]:
    """Changes that need less memory, those with the least effect on speed and result first."""
    if not recipe.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if recipe.base_bits == 16 and not recipe.fsdp:
        yield {"base_bits": 8}
    micro = (recipe.micro_batch_size or recipe.batch_size // gpus) // 2
    while micro >= 1:
        if recipe.batch_size % (micro * gpus) == 0:
            yield {"micro_batch_size": micro}
        micro //= 2
    if recipe.optimizer == "adamw" and not recipe.is_divided:
        yield {"optimizer": "paged-adamw-8bit"}
    if recipe.base_bits > 4 and not recipe.fsdp:
        yield {"base_bits": 4}
    if recipe.vocabulary == "full" and recipe.modules_to_save:
        yield {"vocabulary": "new-rows"}
