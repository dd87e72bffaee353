"""A recipe's file: YAML with each key once, `--set` over it, and errors that name the right key."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from zhuzi.errors import RecipeError
from zhuzi.train.recipe import (
    TASKS,
    AnyRecipe,
    CorpusRecipe,
    EvaluateRecipe,
    LoraRecipe,
    PretrainRecipe,
    SamplesRecipe,
    SftRecipe,
    SourceRecipe,
)
from zhuzi.train.shipped import shipped_recipes


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> PretrainRecipe | SftRecipe:
    """Read a YAML recipe.

    Args:
        path: the file, or the name of one of the package's recipes (`zhuzi recipes list`).
        settings: `key=value` each, put over what the file says: `steps=10`, `lora.rank=16`, `lora=null`,
            `evaluate.texts=[en.jsonl]`. Values are YAML.

    Raises:
        RecipeError: no such file, not YAML, an unknown key (a similar one is suggested), or an invalid value.
    """
    read = read_yaml(path)
    if "stages" in read:
        raise RecipeError(f"{path}: holds several stages; read it with zhuzi.train.load_stages")
    read = with_settings(read, settings)
    return validated(read, f"{path} with {' '.join(settings)}" if settings else str(path))


def validated(read: Mapping[str, Any], where: str) -> PretrainRecipe | SftRecipe:
    """The recipe that the keys of a file make; `where` begins the message of an error."""
    task = read.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise RecipeError(f"{where}: task is {task!r}; want `task: pretrain` or `task: sft`")
    try:
        return TASKS[task].model_validate(read)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_reasons(error, TASKS[task])}") from error


def resolve_recipe(
    recipe: AnyRecipe | str | Path, kind: type[AnyRecipe], settings: Sequence[str] = ()
) -> AnyRecipe:
    """A recipe of the wanted kind, itself or read from its file, with `settings` put over it."""
    if not isinstance(recipe, BaseModel):
        given, where = load_recipe(recipe, settings), str(recipe)
    else:
        given, where = recipe, "the recipe"
        if settings:
            read = with_settings(recipe.model_dump(mode="json"), settings)
            given = validated(read, f"{where} with {' '.join(settings)}")
    return of_kind(given, kind, where)


def of_kind(given: PretrainRecipe | SftRecipe, kind: type[AnyRecipe], where: str) -> AnyRecipe:
    """The recipe, if it is of the wanted kind; else `RecipeError` names the other command."""
    if isinstance(given, kind):
        return given
    other = "sft" if kind is PretrainRecipe else "pretrain"
    raise RecipeError(f"{where}: its task is {other}; run it with `zhuzi {other}`")


def as_yaml(recipe: BaseModel) -> str:
    """A recipe with all its keys, as a file of it could be."""
    held = recipe.model_dump(mode="json")
    text: str = yaml.safe_dump(held, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return text


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file, each given once; raises as `load_recipe` does."""
    try:
        # A SafeLoader, which builds plain values only.
        read = yaml.load(_text_of(path), Loader=_EachKeyOnce)
    except OSError as error:
        name = Path(path).name.removesuffix(".yaml")
        near = difflib.get_close_matches(name, shipped_recipes(), n=1) if not Path(path).exists() else []
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); "
            + (f"did you mean {near[0]}? Else " if near else "")
            + "name a recipe's file, or one of `zhuzi recipes list`"
        ) from error
    except _KeyGivenTwiceError as error:
        raise RecipeError(f"{path}, line {error.line}: {error.key!r} is given twice; keep one") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(read, dict):
        raise RecipeError(f"{path}: want `key: value` lines, as `zhuzi recipes show llama-7b-sft` has")
    return read


def _text_of(path: str | Path) -> str:
    file = Path(path)
    if not file.exists() and file.name == str(path):
        known = shipped_recipes().get(file.name)
        if known is not None:
            return known.text
    return file.read_text(encoding="utf-8")


def with_settings(read: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The keys with `key=value` put over them, those of an inner key (`lora.rank`) too."""
    changed = dict(read)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {setting}: want key=value, as in lora.rank=16")
        try:
            value = yaml.load(text, Loader=_EachKeyOnce)
        except (yaml.YAMLError, _KeyGivenTwiceError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(f"--set {setting}: its value is not YAML ({reason}); quote it") from error
        inner = changed
        for key in keys[:-1]:
            held = inner.get(key)
            inner[key] = dict(held) if isinstance(held, Mapping) else {}
            inner = inner[key]
        inner[keys[-1]] = value
    return changed


class _KeyGivenTwiceError(Exception):
    def __init__(self, key: Any, line: int) -> None:
        self.key, self.line = key, line


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key given twice; plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key_node.tag != "tag:yaml.org,2002:merge":
                if key in seen:
                    raise _KeyGivenTwiceError(key, key_node.start_mark.line + 1)
                seen.add(key)
        return super().construct_mapping(node, deep)


def _reasons(error: ValidationError, kind: type[BaseModel]) -> str:
    details = error.errors()
    # To pydantic a list with an invalid item is also "too short".
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    told = [d for d in details if d["type"] != "too_short" or d["loc"] not in inner]
    return "; ".join(_reason(detail, kind) for detail in told)


def _reason(detail: Any, kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"] if part not in ("path", "source"))
    if detail["type"] == "extra_forbidden":
        known: dict[str, type[BaseModel]] = {
            "lora": LoraRecipe,
            "evaluate": EvaluateRecipe,
            "samples": SamplesRecipe,
            "instructions": SourceRecipe,
            "corpus": CorpusRecipe,
        }
        fields = known.get(str(detail["loc"][0]), kind).model_fields
        for task, other in TASKS.items():
            if key in other.model_fields and kind is not other:
                return f"unknown key {key!r}: it belongs to task: {task}"
        named = str(detail["loc"][-1])
        if (ours := _ELSEWHERE.get(named)) is not None:
            return f"unknown key {key!r}; here it is {ours}"
        near = difflib.get_close_matches(named, fields, n=1)
        return f"unknown key {key!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
        )
    if detail["type"] == "missing":
        return f"{key} is missing"
    reason, value = _in_our_words(detail), detail["input"]
    if not key or (isinstance(value, str) and value and reason.startswith(f"{value}: ")):
        return f"{key}: {reason}" if key else reason
    given = "null" if value is None else reprlib.repr(value)
    return f"{key}: {reason} (it is {given})"


#: What other trainers call a setting, and what it is here.
_ELSEWHERE = {
    "rope": "a setting of the model: `zhuzi model extend --rope KIND:FACTOR`",
    "rope_scaling": "a setting of the model: `zhuzi model extend --rope KIND:FACTOR`",
    "load_in_8bit": "`base_bits: 8`",
    "load_in_4bit": "`base_bits: 4`",
    "bf16": "decided by the device: bfloat16 on a GPU, fp32 on a CPU",
    "fp16": "decided by the device: bfloat16 on a GPU, fp32 on a CPU",
    "gradient_accumulation_steps": "batch_size (sequences per step) over micro_batch_size (per forward)",
    "per_device_train_batch_size": "micro_batch_size",
    "zero": "`deepspeed: zero-2`",
    "zero_stage": "`deepspeed: zero-2`",
    "fsdp_config": "`fsdp: true`",
    "max_seq_length": "sequence_length",
    "cutoff_len": "sequence_length",
    "evaluate_every": "`evaluate: {every: STEPS}`",
    "eval_every": "`evaluate: {every: STEPS}`",
    "eval_steps": "`evaluate: {every: STEPS}`",
    "early_stopping_patience": "`evaluate: {patience: N}`",
    "report_to": "trackers",
    "neftune_noise_alpha": "neftune",
    "num_train_epochs": "epochs",
    "lr": "learning_rate",
    "r": "`lora: {rank: N}`",
    "use_rslora": "`lora: {rslora: true}`",
    "use_dora": "`lora: {dora: true}`",
    "init_lora_weights": "`lora: {init: KIND}`",
    "target_modules": "`lora: {targets: [...]}`",
}

# Our wording of pydantic's errors, by their type; `{}` is filled from the error's context.
_WORDS = {
    "int_type": "want a whole number",
    "int_parsing": "want a whole number",
    "int_parsing_size": "want a whole number",
    "int_from_float": "want a whole number",
    "float_type": "want a number",
    "float_parsing": "want a number",
    "finite_number": "want a finite number",
    "bool_type": "want true or false",
    "string_type": "want text; put it in quotes",
    "path_type": "want a path",
    "literal_error": "want {expected}",
    "greater_than": "want more than {gt}",
    "greater_than_equal": "want {ge} or more",
    "less_than": "want less than {lt}",
    "less_than_equal": "want {le} or less",
    "tuple_type": "want a list, as in [a, b]",
    "too_short": "want one or more",
    "too_long": "want no more than {max_length}",
    "dict_type": "want keys of its own, as in {{{example}}}",
    "model_type": "want keys of its own, as in {{{example}}}",
}


_EXAMPLES = {
    "lora": "rank: 8, alpha: 32",
    "evaluate": "every: 500, share: 0.01",
    "samples": "every: 500, prompts: [...]",
    "map": "instruction: prompt, output: response",
}


def _in_our_words(detail: Any) -> str:
    context = {"example": _EXAMPLES.get(".".join(map(str, detail["loc"]))), **detail.get("ctx", {})}
    if detail["type"] in _WORDS:
        shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        return _WORDS[detail["type"]].format(**shown)
    message: str = detail["msg"]
    return message.removeprefix("Value error, ")
