"""Write a model for others: one GGUF file, or a folder of the hub's layout; load it and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from zhuzi._show import Report
from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError, ModelFileError, naming
from zhuzi.infer.template import ALPACA, Message, Template
from zhuzi.infer.templates import recorded_template, source_of_others
from zhuzi.model.export.card import Card, card_text, require_figures
from zhuzi.model.export.check import Compared, compare_folder, compare_gguf
from zhuzi.model.export.folder import dtype_of, require_tie, write_settings, write_weights
from zhuzi.model.export.gguf_model import Type, size_of, write_model
from zhuzi.model.export.modelfile import modelfile
from zhuzi.model.folder import ModelFolder
from zhuzi.record.disk import sha256
from zhuzi.record.output import new_file, new_folder
from zhuzi.record.place import PathLike, require_free, require_free_file
from zhuzi.record.provenance import kept_template, read_record, write_record
from zhuzi.tokenizer import Tokenizer
from zhuzi.vocab.engines import installed
from zhuzi.vocab.export import (
    alpaca_template,
    chat_template_text,
    check_gguf,
    check_hf,
    check_texts,
    write_hf,
)
from zhuzi.vocab.fast_file import why_inexact
from zhuzi.vocab.gguf_file import why_not_gguf

Format = Literal["gguf", "hf"]

CARD_FILE = "README.md"
#: What the name of a Modelfile beside a GGUF file adds to it.
MODELFILE = ".Modelfile"

_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_QUESTION = "把“春天”译成英文。\n谢谢！"


@dataclass(frozen=True, repr=False)
class ExportedModel(Report):
    """What `export_model` wrote."""

    path: Path
    format: Format
    type: Type
    bytes: int
    """Of the weights."""
    engine: str
    """What loaded it and computed the logits that were compared with the source's."""
    difference: float
    """max |a - b| / max |b| of the logits on 64 ids."""
    same_choice: float
    """Share of these 64 places where the most likely id is the same."""
    texts: int
    """Texts whose ids were compared; 0 if the engine is not installed."""
    chat_template: bool
    wide: int
    """Matrices that are f16 in a q8_0 file because their rows are no multiple of 32."""
    unchecked: tuple[str, ...]
    """What could not be checked here, and why."""

    def _headline(self) -> str:
        return f"{self.path}: {self.format} in {self.type}, logits differ by {self.difference:.1e}"


def export_model(
    model: str | Path,
    out: PathLike,
    *,
    format: Format = "gguf",  # noqa: A002  # as the command has it
    type: Type | None = None,  # noqa: A002
    chat_template: PathLike | Literal["alpaca", "stored"] | None = "stored",
    name: str | None = None,
    license: str | None = None,  # noqa: A002
    base_model: str | None = None,
    figures: Sequence[PathLike] = (),
    check: Sequence[PathLike] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> ExportedModel:
    """Write a model for llama.cpp and Ollama (`gguf`), or for transformers and vLLM (`hf`).

    `gguf` is one file, `out`, with the tokenizer and the chat template, and Ollama's `out.Modelfile` beside
    it. `hf` is a folder: weights, `config.json`, `generation_config.json`, tokenizer, `chat_template.jinja`
    and a model card (`README.md`). Both are written tensor by tensor or file by file, then loaded: the logits
    of 64 ids, and the ids of every piece, random texts and the documents of `check`, must be the source's.

    Args:
        model: a model folder or a hub id.
        type: `f32`, `f16`, `bf16` or (GGUF only) `q8_0`; the model's own by default. In GGUF vectors are f32,
            and matrices whose rows q8_0 cannot cut into blocks of 32 are f16.
        chat_template: `stored` is the template the model was tuned with, or without one the published prompt
            (`alpaca`); or a Jinja file, or None.
        name: in the card and in GGUF; the name of the model's folder by default.
        license: for the card's header, as the hub names it, and for GGUF.
        base_model: for the card's header, by its hub id.
        figures: JSON files of `zhuzi eval bits`, `ceval` and `cmmlu`, for the card; those of other models are
            refused.
        check: texts to compare ids on, anything that `encode_corpus` reads.
        progress: given bytes written and bytes in all.

    Raises:
        InputError: a model that GGUF has no place for, values too large for `type`, a tied head that differs
            from the embedding, or logits that differ in the check.
        ModelFileError: a vocabulary that GGUF cannot hold, or ids that differ in the check.
        MismatchError: the tokenizer has ids without a row.
        OutputExistsError: `out` may not be written.
        ImportError: `gguf` without the package of that name.
    """
    if format not in ("gguf", "hf"):
        raise ValueError(f"format is {format!r}; there are gguf and hf")
    if type is not None and type not in get_args(Type):
        raise ValueError(f"type is {type!r}; there are {', '.join(get_args(Type))}")
    if format == "hf" and type == "q8_0":
        raise naming(
            ValueError, "q8_0 is a type of GGUF; take ", ("type", "f16"), ", or ", ("format", "gguf")
        )
    inputs: list[PathLike] = [model, *figures, *check]
    if chat_template not in (None, "alpaca", "stored"):
        inputs.append(Path(str(chat_template)))
    if format == "gguf":
        require_free_file(out, overwrite=overwrite, inputs=inputs, endings=(MODELFILE, ""))
    else:
        require_free(out, overwrite=overwrite, inputs=inputs)
    folder = ModelFolder.open(model)
    folder.require_rows()
    require_tie(folder)
    chosen: Type = type or _TYPES[folder.dtype_name]  # type: ignore[assignment]
    template = _template(chat_template, folder)
    card = Card(name or folder.path.resolve().name, license, base_model, figures=figures)
    require_figures(card, folder)
    texts = chain(check_texts(folder.tokenizer), read_texts(check) if check else ())
    write = _write_gguf if format == "gguf" else _write_folder
    return write(folder, Path(out), chosen, template, card, texts, inputs, overwrite, progress)


def _template(wanted: PathLike | None, folder: ModelFolder) -> str | None:
    if wanted != "stored":
        return chat_template_text(wanted, folder.tokenizer)
    recorded = recorded_template(folder.path)
    stored = source_of_others(folder.path) if recorded is None else recorded.jinja
    if stored is None or stored == ALPACA.jinja:
        return chat_template_text("alpaca", folder.tokenizer)
    return stored


def _write_gguf(
    folder: ModelFolder,
    out: Path,
    type: Type,  # noqa: A002
    template: str | None,
    card: Card,
    texts: Iterable[str],
    inputs: Sequence[PathLike],
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> ExportedModel:
    if (refusal := why_not_gguf(folder.tokenizer)) is not None:
        raise ModelFileError(f"{folder.path}: no GGUF gives the ids of this vocabulary: {refusal}")
    size = size_of(folder, type)
    with new_file(
        out, kind="model", overwrite=overwrite, inputs=inputs, endings=(MODELFILE, ""), size=size
    ) as path:
        places = write_model(
            folder,
            path,
            type=type,
            name=card.name,
            chat_template=template,
            facts=card.facts(),
            progress=progress,
        )
        text = modelfile(out.name, folder.tokenizer, alpaca=template == alpaca_template())
        path.with_name(path.name + MODELFILE).write_text(text, "utf-8")
        compared = compare_gguf(folder, path, places)
        compared.require(type, folder.path)
        checked = check_gguf(folder.tokenizer, texts, path, folder.path)
    unchecked = []
    if not checked:
        unchecked.append(
            "llama-cpp-python is not installed: llama.cpp did not load the file, no ids were compared"
        )
    unchecked.append("the Modelfile was not tried: Ollama is no Python package")
    return _exported(out, "gguf", type, size, compared, checked, template, unchecked, _wide(places, type))


def _wide(places: Iterable[object], type: Type) -> int:  # noqa: A002
    return sum(getattr(place, "type", "") == "f16" for place in places) if type == "q8_0" else 0


def _write_folder(
    folder: ModelFolder,
    out: Path,
    type: Type,  # noqa: A002
    template: str | None,
    card: Card,
    texts: Iterable[str],
    inputs: Sequence[PathLike],
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> ExportedModel:
    dtype = dtype_of(type)
    reason = why_inexact(folder.tokenizer)
    alpaca = template == alpaca_template()
    size = folder.bytes_in("float32") * (2 if dtype == "float32" != folder.dtype_name else 1)
    with new_folder(out, overwrite=overwrite, inputs=inputs, size=size) as made:
        write_weights(folder, made, dtype, progress)
        write_settings(folder, made, dtype, tuned=alpaca)
        write_hf(folder.tokenizer, made, exact=reason is None, template=template, split=False)
        text = card_text(card, folder, dtype=dtype, template=template is not None)
        (made / CARD_FILE).write_text(text, "utf-8")
        write_record(
            made,
            "exported model",
            source=folder.describe(),
            tokenizer=folder.tokenizer.fingerprint,
            rows=folder.rows,
            original_rows=folder.original_rows,
            **kept_template(read_record(folder.path)),
            files={CARD_FILE: sha256(made / CARD_FILE)},
        )
        written = ModelFolder.open(made)
        compared = compare_folder(folder, written)
        compared.require(type, folder.path)
        checked = check_hf(folder.tokenizer, texts, made, folder.path)
        ours = recorded_template(folder.path) or ALPACA
        if template == ours.jinja:
            _check_template(ours, folder.tokenizer, made)
        size = written.bytes_in("float32")
    unchecked = ["vLLM was not tried"]
    if reason is not None:
        unchecked.append(
            "engines that need a tokenizer.json refuse the folder, as none can hold this vocabulary: "
            + reason
        )
    return _exported(out, "hf", type, size, compared, checked, template, unchecked)


def _check_template(template: Template, tokenizer: Tokenizer, made: Path) -> None:
    """The template gives the ids that tuning gave a question."""
    if installed("transformers") is None:
        return
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made)
    chat = [{"role": "user", "content": _QUESTION}]
    wanted = template.prompt(tokenizer, [Message("user", _QUESTION)])
    if theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) != wanted:
        raise InputError(f"{made.name}: the chat template gives other ids than tuning; nothing was written")


def _exported(
    out: Path,
    format: Format,  # noqa: A002
    type: Type,  # noqa: A002
    size: int,
    compared: Compared,
    texts: int,
    template: str | None,
    unchecked: Sequence[str],
    wide: int = 0,
) -> ExportedModel:
    return ExportedModel(
        path=out,
        format=format,
        type=type,
        bytes=size,
        engine=compared.engine,
        difference=compared.difference,
        same_choice=compared.same_choice,
        texts=texts,
        chat_template=template is not None,
        wide=wide,
        unchecked=tuple(unchecked),
    )
