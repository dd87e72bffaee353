"""The model card (README.md): what the model was made from, by the records of the folders behind it.

Folders are named without their paths: a card is published, and paths tell of a machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi._core import __version__
from zhuzi._show import count
from zhuzi.errors import InputError
from zhuzi.model.chain import find, merged_adapters
from zhuzi.model.folder import ModelFolder
from zhuzi.record.json_file import object_or_empty, read_object
from zhuzi.record.place import PathLike
from zhuzi.record.provenance import RECORD

#: Steps behind a model that are followed; a damaged record could lead in a circle.
_MOST_STEPS = 20


@dataclass(frozen=True)
class Card:
    """What a user says about a model that no file knows."""

    name: str
    licence: str | None = None
    """An identifier of the hub, such as `apache-2.0`, `llama2` or `other`."""
    base_model: str | None = None
    """The base's id on the hub."""
    languages: Sequence[str] = ("zh", "en")
    figures: Sequence[PathLike] = ()
    """JSON files of `zhuzi eval`."""

    def facts(self) -> dict[str, str]:
        """The same as keys of `general.` in GGUF."""
        held = {"license": self.licence, "finetune": "chat"}
        return {key: value for key, value in held.items() if value}


def card_text(card: Card, folder: ModelFolder, *, dtype: str, template: bool) -> str:
    """The card in Markdown with the hub's header.

    Raises:
        InputError: a file of figures that holds none of this model.
    """
    rows = f"{folder.rows:,} rows" if folder.rows != folder.tokenizer.vocab_size else "as many rows"
    steps = list(_steps(folder))
    base = card.base_model or (steps[0][1].split(" (")[0] if steps else folder.path.name)
    parts = [
        _header(card),
        f"# {card.name}\n",
        f"A LLaMA made with Zhuzi {__version__} from `{base}`: "
        f"{folder.config.get('num_hidden_layers', '?')} layers, hidden size "
        f"{folder.config.get('hidden_size', '?')}, {count(folder.tokenizer.vocab_size, 'id')} and {rows}, "
        f"weights in {dtype}.\n",
        _made(steps),
        _use(card.name, template),
        _figures(card, folder),
        "## Licence\n",
        f"`{card.licence}`."
        if card.licence
        else "Not stated. The base's licence applies to what is made from it.",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _header(card: Card) -> str:
    """YAML; every value is a JSON string, which YAML reads as it is."""
    lines = ["---"]
    if card.licence:
        lines.append(f"license: {json.dumps(card.licence)}")
    if card.base_model:
        lines.append(f"base_model: {json.dumps(card.base_model)}")
    lines += ["language:", *(f"- {json.dumps(language)}" for language in card.languages)]
    lines += [
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- llama",
        "- zhuzi",
        "---",
        "",
    ]
    return "\n".join(lines)


def _steps(folder: ModelFolder) -> Iterator[tuple[str, str, str, str]]:
    """(what, on which model, data, recipe) of each step that records tell of, the first one first."""
    found: list[tuple[str, str, str, str]] = []
    place, record = folder.path, object_or_empty(folder.path / RECORD)
    for _ in range(_MOST_STEPS):
        base = record.get("base")
        if not isinstance(base, dict) or not isinstance(base.get("path"), str):
            break
        kind = str(record.get("kind", "model"))
        merged = [entry["path"] for entry in merged_adapters(record)]
        if merged:
            found += reversed(list(_trainings(merged, base, kind, place)))
        else:
            found.append(_step(kind, _on(base), record, place))
        place = find(base["path"], place) or Path(base["path"])
        record = object_or_empty(place / RECORD)
    yield from reversed(found)


def _trainings(
    adapters: Sequence[str], base: Mapping[str, Any], kind: str, place: Path
) -> Iterator[tuple[str, str, str, str]]:
    """A step for each adapter, on the base that its own record names.

    One without a record was trained on the base if it is the first, else on what the one before it made.
    """
    on = _on(base)
    for path in adapters:
        folder = find(path, place) or Path(path)
        held = object_or_empty(folder / RECORD)
        theirs = held.get("base")
        if isinstance(theirs, Mapping) and isinstance(theirs.get("path"), str):
            on = _on(theirs)
        yield _step(kind, on, held, folder)
        on = "the model of the row above"


def _on(base: Mapping[str, Any]) -> str:
    return f"{Path(base['path']).name} ({str(base.get('fingerprint', ''))[:12]})"


def _step(kind: str, on: str, record: Mapping[str, Any], place: Path) -> tuple[str, str, str, str]:
    """The row of a step whose record lies in `place`, beside which a run has its report."""
    recipe: Any = record.get("recipe")
    if not isinstance(recipe, dict):
        recipe = {}
    report = object_or_empty(place.parent / "report.json")
    return _task(kind, recipe), on, _data(recipe, report), _settings(recipe)


def _task(kind: str, recipe: Mapping[str, Any]) -> str:
    return {"pretrain": "pre-training", "sft": "instruction tuning"}.get(str(recipe.get("task")), kind)


def _data(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    named = recipe.get("corpus") or recipe.get("instructions") or []
    sources = list(map(_source, named if isinstance(named, list) else [named]))
    tokens = report.get("tokens")
    return ", ".join(sources) + (f" ({tokens:,} tokens read)" if isinstance(tokens, int) and sources else "")


def _source(source: Any) -> str:
    """A corpus or file by its name; one with a weight by both."""
    if not isinstance(source, dict):
        return Path(str(source)).name
    files = source.get("folder") or source.get("files") or []
    names = ", ".join(Path(str(file)).name for file in (files if isinstance(files, list) else [files]))
    return names if source.get("weight", 1) == 1 else f"{names} (weight {source['weight']:g})"


def _settings(recipe: Mapping[str, Any]) -> str:
    shown = []
    lora = recipe.get("lora")
    if isinstance(lora, dict):
        shown.append(f"LoRA rank {lora.get('rank')}, alpha {lora.get('alpha')}")
    saved = recipe.get("modules_to_save")
    if isinstance(saved, list) and saved:
        shown.append("whole: " + ", ".join(map(str, saved)))
    for key, what in (("steps", "steps"), ("batch_size", "batch"), ("learning_rate", "learning rate")):
        if isinstance(recipe.get(key), int | float):
            shown.append(f"{what} {recipe[key]:g}")
    return "; ".join(shown)


def _made(steps: Sequence[tuple[str, str, str, str]]) -> str:
    if not steps:
        return ""
    lines = ["## How it was made\n", "| step | on | data | recipe |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in step) + " |" for step in steps]
    return "\n".join([*lines, ""])


def _use(name: str, template: bool) -> str:
    lines = [
        "## Use\n",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(name, ensure_ascii=False)})",
        f'model = AutoModelForCausalLM.from_pretrained({json.dumps(name, ensure_ascii=False)}, dtype="auto")',
    ]
    if template:
        lines += [
            'chat = [{"role": "user", "content": "你好"}]',
            'inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)',
        ]
    else:
        lines.append('inputs = tokenizer("你好", return_tensors="pt")')
    lines += [
        "made = model.generate(**inputs, max_new_tokens=256)",
        'print(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```\n",
    ]
    return "\n".join(lines)


def require_figures(card: Card, folder: ModelFolder) -> None:
    """Raise `InputError` unless every file of figures holds some of this model."""
    _figures(card, folder)


def _figures(card: Card, folder: ModelFolder) -> str:
    lines: list[str] = []
    for path in card.figures:
        held = read_object(Path(path), InputError)
        found = list(_lines(held, folder.fingerprint))
        if not found:
            raise InputError(
                f"{path}: holds no figures of this model (fingerprint {folder.fingerprint[:12]}); measure it "
                "with `zhuzi eval`"
            )
        lines += found
    return "\n".join(["## Figures\n", "| what | on | figure |", "|---|---|---|", *lines, ""]) if lines else ""


def _lines(held: Mapping[str, Any], fingerprint: str) -> Iterator[str]:
    # Figures of a model that was quantised as it was loaded are not those of what is exported.
    measured = None if held.get("quantised") else held.get("measured")
    for entry in measured if isinstance(measured, list) else []:
        if isinstance(entry, dict) and entry.get("fingerprint") == fingerprint:
            yield (
                f"| bits per byte | {Path(str(entry.get('source'))).name} "
                f"({entry.get('documents')} documents) | {float(entry['bits_per_byte']):.4f} |"
            )
    if held.get("kind") == "exam" and held.get("fingerprint") == fingerprint and held.get("acc") is not None:
        yield (
            f"| {held.get('exam')}, accuracy | {held.get('split')}, {held.get('shots')} shots, by "
            f"{held.get('by')} | {float(held['acc']):.4f} |"
        )
