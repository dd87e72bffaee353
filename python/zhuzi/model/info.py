"""What a folder is, where it comes from, and what in it does not fit together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zhuzi._show import Report
from zhuzi.errors import InputError, ZhuziError
from zhuzi.model import weights
from zhuzi.model.adapter import AdapterFolder
from zhuzi.model.chain import Link, chain, find, made_with, parent_of
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder, read_json
from zhuzi.model.positions import in_words, positions, rope_of
from zhuzi.record.provenance import read_record
from zhuzi.record.remembered import recalled
from zhuzi.tokenizer import Tokenizer

_SHAPE = {
    "hidden_size": "hidden",
    "intermediate_size": "inner",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
}


@dataclass(frozen=True, repr=False)
class FolderInfo(Report):
    """What `model_info` found."""

    path: Path
    kind: str  # "model", "adapter", "training run", "tokenizer", "corpus"
    facts: dict[str, Any] = field(default_factory=dict)  # by name, in the order in which they are shown
    made_with: dict[str, Any] = field(default_factory=dict)  # what its record says: recipe, versions, seeds
    chain: tuple[Link, ...] = ()  # what it was made from, back to the first base
    problems: tuple[str, ...] = ()  # what does not fit together

    def _headline(self) -> str:
        wrong = f", {len(self.problems)} that do not fit" if self.problems else ""
        return f"{self.path}: {self.kind}{wrong}"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "path": str(self.path)}


def model_info(folder: str | Path, *, verify: bool = False) -> FolderInfo:
    """Say what a folder is: a model, an adapter, a training run, a tokenizer or a corpus.

    Reads settings, records and headers of weights. What is damaged or does not fit is in `problems`, not
    raised.

    Args:
        folder: the folder, or a hub id.
        verify: also read all weights, and compare them with the fingerprints in the records.

    Raises:
        InputError: it is none of these.
    """
    path = Path(folder)
    if not path.is_dir():
        path = ModelFolder.open(folder).path  # a hub id; else the error says what is wrong
    for name, kind, describe in _KINDS:
        if (path / name).is_file():
            return _Inquiry(path, kind, verify).made(describe)
    raise InputError(
        f"{path}: neither a model, an adapter, a training run, a tokenizer nor a corpus: it holds no "
        f"{', '.join(name for name, _, _ in _KINDS)}"
    )


class _Inquiry:
    """Collects what is known of a folder."""

    def __init__(self, path: Path, kind: str, verify: bool) -> None:
        self.path, self.kind, self.verify = path, kind, verify
        self.facts: dict[str, Any] = {}
        self.problems: list[str] = []
        self.record: Mapping[str, Any] | None = None

    def made(self, describe: Callable[[_Inquiry], None]) -> FolderInfo:
        self.record = self.attempt(lambda: read_record(self.path))
        describe(self)
        links = tuple(chain(self.path, self.record, verify=self.verify))
        for link in links:
            if link.same is False:
                has_weights = link.kind not in ("corpus", "instructions", "tokenizer")
                self.problems.append(
                    f"{link.found}: its {'weights are' if has_weights else 'content is'} not what was used "
                    f"here (fingerprint {link.fingerprint} recorded)"
                )
        return FolderInfo(
            self.path,
            self.kind,
            self.facts,
            made_with(self.record),
            links,
            tuple(dict.fromkeys(self.problems)),
        )

    def attempt(self, read: Callable[[], Any]) -> Any:
        """What `read` gives; None if it fails, and the reason is a problem."""
        try:
            return read()
        except (ZhuziError, OSError) as error:
            self.problems.append(str(error))
            return None

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)


def _model(it: _Inquiry) -> None:
    folder: ModelFolder | None = it.attempt(lambda: ModelFolder.open(it.path))
    config: dict[str, Any] = it.attempt(lambda: read_json(it.path / "config.json")) or {}
    it.facts["model_type"] = config.get("model_type")
    it.facts["shape"] = {name: config[key] for key, name in _SHAPE.items() if key in config}
    it.facts["positions"], rope = positions(config), in_words(rope_of(config))
    if not rope.startswith("default"):
        it.facts["RoPE"] = rope
    if folder is None:
        return
    counted = [info for name, info in folder.tensors.items() if not (folder.tied and name == HEAD)]
    it.facts["parameters"] = sum(math.prod(info.shape) for info in counted)
    it.facts["bytes"] = sum(info.end - info.begin for info in folder.tensors.values())
    it.facts["stored as"] = folder.dtype_name
    it.facts["head"] = "tied to the embedding" if folder.tied else "of its own"
    it.facts["rows"] = folder.rows
    original = it.attempt(lambda: folder.original_rows)
    if original is not None:
        it.facts["rows of the first base"] = original
    tokenizer: Tokenizer | None = it.attempt(lambda: folder.tokenizer)
    if tokenizer is not None:
        _tokenizer_facts(it, tokenizer)
        it.facts["padding rows"] = max(0, folder.rows - tokenizer.vocab_size)
        it.attempt(folder.require_rows)
        _require_special_ids(it, config, tokenizer)
        _require_recorded(it, "tokenizer", tokenizer.fingerprint)
    _require_recorded(it, "rows", folder.rows)
    if folder.tied and HEAD in folder.tensors:
        same = weights.fingerprint({"": _unnamed(folder, HEAD)}) == weights.fingerprint(
            {"": _unnamed(folder, EMBEDDING)}
        )
        it.require(
            same,
            f"{it.path}: config.json ties the head to the embedding (tie_word_embeddings), but the two that "
            "are stored differ: loaded, the head is lost; write false there",
        )
    files = {info.file for info in folder.tensors.values()}
    it.facts["fingerprint"] = folder.fingerprint if it.verify else recalled(files)


def _unnamed(folder: ModelFolder, name: str) -> weights.TensorInfo:
    info = folder.tensors[name]
    return weights.TensorInfo("", info.dtype, info.shape, info.file, info.begin, info.end)


def _require_special_ids(it: _Inquiry, config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    for name, ours in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        theirs = config.get(f"{name}_token_id")
        ids = theirs if isinstance(theirs, list) else [theirs]
        it.require(
            theirs is None or ours is None or ours in ids,
            f"{it.path}: config.json says {name}_token_id {theirs}, its tokenizer's is {ours}",
        )


def _require_recorded(it: _Inquiry, key: str, ours: object) -> None:
    """The record's tokenizer or rows must be those that are there."""
    recorded = (it.record or {}).get(key)
    it.require(
        recorded is None or recorded == ours,
        f"{it.path}: made with another {key} ({recorded}) than it holds ({ours})",
    )


def _adapter(it: _Inquiry) -> None:
    adapter: AdapterFolder | None = it.attempt(lambda: AdapterFolder.open(it.path))
    if adapter is None:
        return
    config = adapter.config
    targets = config.get("target_modules")
    it.facts["LoRA"] = {"rank": config.get("r"), "alpha": config.get("lora_alpha"), "targets": targets}
    it.facts["trained whole"] = config.get("modules_to_save") or []
    new = config.get("trainable_token_indices")
    if isinstance(new, dict):
        it.facts["rows trained alone"] = {
            name: len(ids) for name, ids in new.items() if isinstance(ids, list)
        }
    it.facts["parameters"] = sum(math.prod(info.shape) for info in adapter.tensors.values())
    it.facts["bytes"] = sum(info.end - info.begin for info in adapter.tensors.values())
    it.facts["fingerprint"] = adapter.digest
    it.attempt(adapter.require_whole)
    if adapter.record is None:
        it.facts["record"] = "none of its base: only shapes and names can be compared"
        recorded = config.get("base_model_name_or_path")
        base = {"path": recorded} if isinstance(recorded, str) else None
    else:
        base = dict(parent_of(adapter.record) or {})
        it.facts["rows"], it.facts["tokenizer"] = adapter.record.get("rows"), adapter.record.get("tokenizer")
    if not base:
        return
    it.facts["adapter of"] = base.get("path")
    found = find(str(base.get("path")), it.path)
    if found is None:
        return
    model: ModelFolder | None = it.attempt(lambda: ModelFolder.open(found))
    if model is not None:
        it.attempt(lambda: adapter.require_fitting(model))


def _run(it: _Inquiry) -> None:
    state: dict[str, Any] = it.attempt(lambda: read_json(it.path / "run.json")) or {}
    recipe = state.get("recipe") if isinstance(state.get("recipe"), Mapping) else {}
    assert isinstance(recipe, Mapping)
    it.facts["task"], it.facts["recipe"] = recipe.get("task"), dict(recipe)
    it.facts["model"] = {"path": recipe.get("model"), "fingerprint": state.get("model")}
    trained_on = state.get("trained_on")
    named = recipe.get("corpus", recipe.get("instructions"))  # all that earlier versions recorded
    it.facts["data"] = {"fingerprint": state.get("data"), **({} if trained_on else {"path": named})}
    it.facts["tokenizer"] = state.get("tokenizer")
    done = (it.path / "report.json").is_file()
    if done:
        report = it.attempt(lambda: read_json(it.path / "report.json")) or {}
        it.facts["finished"] = f"{report.get('steps')} steps"
        it.facts["result"] = str(it.path / str(report.get("result")))
    else:
        names = [path.name.rpartition("-")[2] for path in (it.path / "checkpoints").glob("checkpoint-*")]
        steps = [int(name) for name in names if name.isdecimal()]
        it.facts["finished"] = f"no: its last checkpoint is of step {max(steps)}" if steps else "no"
    path = recipe.get("model")
    found = find(path, it.path) if isinstance(path, str) else None
    base = {"path": path, "fingerprint": state.get("model")}
    if isinstance(path, str):
        it.record = {"base": base, "trained_on": trained_on, **(it.record or {})}
    model = None if found is None else it.attempt(lambda: ModelFolder.open(found))
    if model is not None and isinstance(state.get("tokenizer"), str):
        theirs = it.attempt(lambda: model.tokenizer.fingerprint)
        it.require(
            theirs in (None, state["tokenizer"]),
            f"{found}: its tokenizer ({theirs}) is not that of the run ({state['tokenizer']})",
        )


def _tokenizer(it: _Inquiry) -> None:
    tokenizer: Tokenizer | None = it.attempt(lambda: Tokenizer.from_dir(it.path))
    if tokenizer is None:
        return
    _tokenizer_facts(it, tokenizer)
    recorded = (it.record or {}).get("fingerprint")
    it.require(
        recorded in (None, tokenizer.fingerprint),
        f"{it.path}: its files were changed since it was made ({recorded} recorded, "
        f"{tokenizer.fingerprint} now)",
    )


def _tokenizer_facts(it: _Inquiry, tokenizer: Tokenizer) -> None:
    it.facts["tokenizer"] = tokenizer.fingerprint
    it.facts["ids"] = tokenizer.vocab_size
    it.facts["added tokens"] = list(tokenizer.added_tokens)
    it.facts["special ids"] = {
        name: id
        for name in ("unk", "bos", "eos", "pad")
        if (id := getattr(tokenizer, f"{name}_id")) is not None
    }


def _corpus(it: _Inquiry) -> None:
    manifest: dict[str, Any] = it.attempt(lambda: read_json(it.path / "manifest.json")) or {}
    for key in ("documents", "tokens", "text_bytes", "dtype"):
        if key in manifest:
            it.facts[key.replace("_", " ")] = manifest[key]
    if "version" in manifest:  # the first that writes these bytes, and not that of the program
        it.facts["same bytes since"] = f"zhuzi {manifest['version']}"
    tokenizer = manifest.get("tokenizer")
    if isinstance(tokenizer, Mapping):
        it.facts["tokenizer"] = tokenizer.get("fingerprint")
        it.facts["ids"] = tokenizer.get("vocab_size")
    it.facts["sources"] = [s.get("path") for s in manifest.get("sources") or () if isinstance(s, Mapping)]
    from zhuzi.corpus.dataset import Corpus

    it.facts["fingerprint"] = it.attempt(lambda: Corpus(it.path).fingerprint())


#: The file that tells a kind of folder, the first that is there.
_KINDS: list[tuple[str, str, Callable[[_Inquiry], None]]] = [
    ("adapter_config.json", "adapter", _adapter),
    ("config.json", "model", _model),
    ("manifest.json", "corpus", _corpus),
    ("run.json", "training run", _run),
    ("tokenizer.model", "tokenizer", _tokenizer),
]


def lines(info: FolderInfo) -> Iterator[str]:
    """The report as text."""
    yield f"{info.path}: {info.kind}"
    for name, value in _given({**info.facts, **info.made_with}):
        yield f"  {name:<24}{shown(value)}"
    for link in info.chain:
        yield f"  {'made from':<24}{_told(link)}"
        for name, value in _given(link.made_with):
            yield f"    {name:<22}{shown(value)}"
    for problem in info.problems:
        yield f"  does not fit            {problem}"


def _given(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those with a value."""
    return ((name, value) for name, value in facts.items() if value not in (None, [], {}, ""))


def _told(link: Link) -> str:
    """A link on one line; of fingerprints, the first 12 digits."""
    where = link.path if link.found in (None, link.path) else f"{link.path} ({link.found})"
    parts = [f"{where}: {link.kind}"]
    if link.rows is not None:
        parts.append(f"{link.rows:,} rows")
    parts += [
        f"{n} {d[:12]}" for n, d in (("fingerprint", link.fingerprint), ("tokenizer", link.tokenizer)) if d
    ]
    if link.zhuzi:
        parts.append(f"{'the same bytes since' if link.kind == 'corpus' else 'by'} zhuzi {link.zhuzi}")
    if link.same is not None:
        parts.append("unchanged" if link.same else "CHANGED SINCE")
    return ", ".join(parts)


def shown(value: Any) -> str:
    """A value on one line; of a recipe or another table, its keys with their values.

    Left out are switches that are off and what is `default`, as a recipe has them if it does not name them;
    and the Jinja of a template.
    """
    if isinstance(value, Mapping):
        told = [(key, held) for key, held in _given(value) if held is not False and held != "default"]
        return ", ".join(f"{key} {shown(held)}" for key, held in told if key != "jinja")
    if isinstance(value, list | tuple):
        said = ", ".join(shown(held) for held in value[:8])
        return said + (f" and {len(value) - 8:,} more" if len(value) > 8 else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "\\n".join(str(value).splitlines())
