"""Recipes: what a training run does, as data. Frozen, typed, checked when they are read."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    ValidationError,
    model_validator,
)

from zhuzi._paths import expand, expand_text
from zhuzi.infer.templates import NAMES
from zhuzi.train.conversations import MAPPED
from zhuzi.train.sources import Source

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
#: Names that `deepspeed` knows beside a file, and their stages.
ZERO = {"zero-1": 1, "zero-2": 2}


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("want a number")
    return value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} named twice; name each once")
    return names


# By default pydantic takes `true` for 1, and YAML has .inf and .nan.
_Whole = Annotated[int, Field(strict=True)]
_Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool)]


def _kept(path: Path) -> Path:
    for it, is_read_once in (("standard input", str(path) == "-"), ("a pipe", path.is_fifo())):
        if is_read_once:
            raise ValueError(f"{it} cannot be read again when the run resumes; write it to a file")
    return path


def _on_or_off(value: Any) -> Any:
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML's own


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path | dict) else value


def _zero(name: str) -> str:
    return name if name in ZERO else expand_text(name)


def _leaves_the_base_alone(init: Any) -> Any:
    if isinstance(init, str) and init.lower().startswith(("pissa", "olora", "loftq", "corda")):
        raise ValueError(
            f"{init} changes the base's own weights, so its adapter fits no stored base; want 'default', "
            "'gaussian', 'orthogonal' or 'eva'"
        )
    return init


# Expanded once, here: whatever reads the recipe sees the same path.
_Path = Annotated[Path, AfterValidator(expand)]
_Kept = Annotated[_Path, AfterValidator(_kept)]
_Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb", "swanlab", "mlflow"], ...],  # named as their packages are
    BeforeValidator(_one_or_more),
    AfterValidator(_each_once),
]
_Beta = Annotated[_Number, Field(ge=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LoraRecipe(_Frozen):
    """Low-rank adapters (Hu et al. 2106.09685), with the published settings as defaults."""

    rank: _Whole = Field(8, gt=0)
    alpha: _Number = Field(32, gt=0)
    dropout: _Number = Field(0.05, ge=0, lt=1)
    targets: Annotated[tuple[str, ...], AfterValidator(_each_once)] = Field(ATTENTION, min_length=1)
    rslora: StrictBool = False  # scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)
    dora: StrictBool = False  # weight-decomposed (Liu et al. 2024, arXiv 2402.09353)
    # eva: the main directions of each layer's inputs (Paischer et al. 2024, arXiv 2410.07170).
    init: Annotated[
        Literal["default", "gaussian", "orthogonal", "eva"], BeforeValidator(_leaves_the_base_alone)
    ] = "default"

    @model_validator(mode="after")
    def _can_be(self) -> LoraRecipe:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init: orthogonal needs an even rank, not {self.rank}")
        return self


class EvaluateRecipe(_Frozen):
    """Evaluation during training."""

    every: _Whole = Field(500, gt=0)  # steps
    share: _Number = Field(0.01, ge=0, lt=1)  # of the blocks or records, held out; drawn by the seed
    max_examples: _Whole = Field(256, gt=0)  # held out at most
    # Files whose bits per byte are measured too, such as English beside Chinese.
    texts: tuple[_Kept, ...] = ()
    patience: _Whole | None = Field(None, gt=0)  # stop after so many evaluations without a lower loss

    @model_validator(mode="after")
    def _can_be(self) -> EvaluateRecipe:
        if self.share == 0 and not self.texts:
            raise ValueError("nothing to measure: give a share of the data, or texts")
        if self.share == 0 and self.patience is not None:
            raise ValueError("patience waits for a lower loss of held-out data: give a share of it")
        return self


class SamplesRecipe(_Frozen):
    """Texts that the model writes while it trains, drawn with the run's seed."""

    every: _Whole = Field(500, gt=0)  # steps
    prompts: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = Field(min_length=1)
    max_new_tokens: _Whole = Field(64, gt=0)
    temperature: _Number = Field(0.2, ge=0)  # the published one; 0 takes the most likely token


class Recipe(_Frozen):
    """What pre-training and tuning share.

    Paths are relative to the current folder; `~` and `$VAR` are expanded.
    """

    task: Literal["pretrain", "sft"]
    model: Annotated[str, AfterValidator(expand_text)]  # a model folder, or a hub id
    output: _Path
    # Matrices trained whole. All others are frozen or adapted by LoRA.
    modules_to_save: Annotated[tuple[Literal["embed_tokens", "lm_head"], ...], AfterValidator(_each_once)] = (
        "embed_tokens",
        "lm_head",
    )
    # `full`: all their rows, as published. `new-rows`: only the rows after the first base's `original_rows`,
    # which the model's record tells if Zhuzi extended it.
    vocabulary: Literal["full", "new-rows"] = "full"
    original_rows: _Whole | None = Field(None, gt=0)
    lora: LoraRecipe | None = None
    # Of the frozen weights. 8: int8 (LLM.int8(), Dettmers et al. 2208.07339); 4: NF4 with double quantisation
    # (QLoRA, Dettmers et al. 2305.14314).
    base_bits: Literal[4, 8, 16] = 16
    sequence_length: _Whole = Field(512, ge=2)  # tokens
    steps: _Whole | None = Field(None, gt=0)  # optimiser steps; or
    epochs: _Number | None = Field(None, gt=0)  # passes over the data, which may be a fraction
    batch_size: _Whole = Field(gt=0)  # sequences per optimiser step, over all devices
    micro_batch_size: _Whole | None = Field(None, gt=0)  # sequences per forward on one device; None: all
    learning_rate: _Number = Field(gt=0)  # peak
    warmup: _Number = Field(0.05, ge=0, lt=1)  # share of the steps
    weight_decay: _Number = Field(0.0, ge=0)
    # After the warm-up; `wsd` is constant and decays over the last tenth of the steps.
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    max_grad_norm: _Number = Field(1.0, ge=0)  # 0: gradients are not clipped
    embedding_learning_rate: _Number | None = Field(None, gt=0)  # peak for embedding and head; none: the same
    seed: _Whole = Field(42, ge=0, lt=2**32)  # numpy's limit
    gradient_checkpointing: StrictBool = False
    # Each decoder layer by torch.compile. `auto`: on a GPU, where there is a C compiler.
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)] = "auto"
    log_every: _Whole = Field(10, gt=0)  # steps
    save_every: _Whole = Field(500, gt=0)  # steps
    keep_checkpoints: _Whole = Field(2, gt=0)
    evaluate: EvaluateRecipe | None = None
    samples: SamplesRecipe | None = None
    # Where else the figures of log.jsonl go. None: TensorBoard, if it is installed.
    trackers: _Trackers | None = None
    verify_frozen: StrictBool = False  # digest every tensor before and after: frozen ones must not change
    # Divide optimiser states and gradients among the processes: `zero-2`, `zero-1`, or a DeepSpeed JSON file.
    deepspeed: Annotated[str, AfterValidator(_zero)] | None = None
    fsdp: StrictBool = False  # divide all parameters too, of a 16-bit base

    @model_validator(mode="after")
    def _can_be(self) -> Recipe:
        if self.steps is None and self.epochs is None:
            raise ValueError("steps is missing; give it, or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if self.lora is None and not self.modules_to_save:
            raise ValueError("nothing to train: give lora, or name embed_tokens in modules_to_save")
        if self.vocabulary == "new-rows" and not self.modules_to_save:
            raise ValueError("vocabulary: new-rows needs modules_to_save, whose new rows train")
        if self.vocabulary == "full" and self.original_rows is not None:
            raise ValueError("original_rows is for vocabulary: new-rows; leave it out")
        if self.embedding_learning_rate is not None and not self.modules_to_save:
            raise ValueError("embedding_learning_rate needs modules_to_save, which it is for; leave it out")
        if self.lora is not None and "embed_tokens" in self.lora.targets:
            raise ValueError("the embedding is trained whole: name embed_tokens in modules_to_save")
        if self.lora is not None and set(self.lora.targets) & set(self.modules_to_save):
            raise ValueError("a matrix cannot be in lora.targets and in modules_to_save at once")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self

    @property
    def is_divided(self) -> bool:
        """Whether processes divide states among them, with `deepspeed` or `fsdp`."""
        return self.fsdp or self.deepspeed is not None

    @model_validator(mode="after")
    def _can_be_divided(self) -> Recipe:
        if self.fsdp and self.deepspeed is not None:
            raise ValueError("give deepspeed or fsdp, not both")
        if self.fsdp and self.base_bits < 16:
            raise ValueError(
                f"fsdp divides 16-bit matrices, and those of base_bits: {self.base_bits} have scales beside "
                "them that must stay whole; write deepspeed: zero-2, which divides only what trains"
            )
        if self.fsdp and self.samples is not None:
            raise ValueError("samples are written by one process, and with fsdp none has the whole model")
        if self.fsdp and self.lora is not None and self.lora.init == "eva":
            raise ValueError("lora.init: eva runs the whole model on one device; with fsdp, write another")
        if self.optimizer != "adamw" and self.is_divided:
            name = "fsdp" if self.fsdp else "deepspeed"
            raise ValueError(
                f"optimizer: {self.optimizer} rounds in blocks, which {name} would cut elsewhere for each "
                "number of processes; write optimizer: adamw, whose states are divided"
            )
        return self


class CorpusRecipe(_Frozen):
    """An encoded corpus with a weight."""

    folder: _Path
    weight: _Number = Field(1, gt=0)  # how often each block is in an epoch; 0.5: half of them


def _is_mapping(value: Any) -> str:
    return "source" if isinstance(value, dict | _Frozen) else "path"


_Corpus = Annotated[
    Annotated[_Path, Tag("path")] | Annotated[CorpusRecipe, Tag("source")], Discriminator(_is_mapping)
]


class PretrainRecipe(Recipe):
    """Causal language modelling on encoded corpora."""

    task: Literal["pretrain"]
    # Folders that `zhuzi corpus encode` wrote; or corpora with `folder` and `weight`.
    corpus: Annotated[tuple[_Corpus, ...], BeforeValidator(_one_or_more)] = Field(min_length=1)
    # Documents in one block do not see each other; false, as published: they do.
    separate_documents: StrictBool = False

    @property
    def corpora(self) -> dict[Path, float]:
        """The corpora and their weights."""
        return dict((it.folder, it.weight) if isinstance(it, CorpusRecipe) else (it, 1) for it in self.corpus)

    @property
    def data(self) -> tuple[Path, ...]:
        """What the run reads besides the model."""
        return tuple(self.corpora)

    @model_validator(mode="after")
    def _each_corpus_once(self) -> PretrainRecipe:
        if len(self.corpora) < len(self.corpus):
            raise ValueError("corpus: a folder is named twice; name it once, with a weight")
        return self


def _known_fields(fields: dict[str, str]) -> dict[str, str]:
    for name in fields:
        if name not in MAPPED:
            near = difflib.get_close_matches(name, MAPPED, n=1)
            raise ValueError(
                f"{name!r} is no field of a record; "
                + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(MAPPED)}")
            )
    return fields


_Map = Annotated[dict[str, Annotated[str, Field(min_length=1)]], AfterValidator(_known_fields)]


class SourceRecipe(_Frozen):
    """Instruction data with a weight or field names of their own."""

    files: Annotated[tuple[_Kept, ...], BeforeValidator(_one_or_more)] = Field(min_length=1)
    weight: _Number = Field(1, gt=0)  # how often each record is in an epoch; 0.5: half of them
    map: _Map | None = None  # none: the recipe's


_Source = Annotated[
    Annotated[_Kept, Tag("path")] | Annotated[SourceRecipe, Tag("source")], Discriminator(_is_mapping)
]


def _template(name: str) -> str:
    return name if name in NAMES else expand_text(name)


class SftRecipe(Recipe):
    """Instruction tuning on conversations, such as Alpaca records."""

    task: Literal["sft"]
    # Files, folders, patterns; or sources of them with `files`, `weight`, `map`.
    instructions: Annotated[tuple[_Source, ...], BeforeValidator(_one_or_more)] = Field(min_length=1)
    # What the records call the fields, as in `instruction: prompt`; see docs/training.md.
    map: _Map = {}
    # `alpaca`, the published one; `llama-2`, `chatml`; or a Jinja file.
    template: Annotated[str, AfterValidator(_template)] = "alpaca"
    # At a wrong record; `skip` leaves it out and counts it.
    on_error: Literal["stop", "skip"] = "stop"
    # Of the loss: true for all tokens, false for the answers and their ends.
    train_on_prompt: StrictBool = False
    # Several records in one sequence, which do not see each other; `batch_size` then counts such sequences.
    packing: StrictBool = False
    # Noise on the embeddings, its alpha (NEFTune, Jain et al. 2023, arXiv 2310.05914); none: no noise.
    neftune: _Number | None = Field(None, gt=0)

    @property
    def sources(self) -> list[Source]:
        """The instruction data."""
        told = [it for it in self.instructions if isinstance(it, SourceRecipe)]
        paths = tuple(it for it in self.instructions if not isinstance(it, SourceRecipe))
        named = [Source(it.files, it.weight, self.map if it.map is None else it.map) for it in told]
        return [*([Source(paths, fields=self.map)] if paths else []), *named]

    @property
    def data(self) -> tuple[Path, ...]:
        """What the run reads besides the model."""
        return tuple(path for source in self.sources for path in source.files)


TASKS: dict[str, type[PretrainRecipe] | type[SftRecipe]] = {"pretrain": PretrainRecipe, "sft": SftRecipe}

AnyRecipe = TypeVar("AnyRecipe", PretrainRecipe, SftRecipe)


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe with all keys of this version: an earlier one knew fewer."""
    kind = TASKS.get(str(recorded.get("task")))
    try:
        read = kind.model_validate({**recorded, "output": "."}) if kind is not None else None
    except ValidationError:  # of a later version
        return recorded
    return recorded if read is None else read.model_dump(mode="json", exclude={"output"})
