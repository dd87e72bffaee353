"""A vocabulary in the forms of other engines: a folder for transformers and vLLM, or GGUF for llama.cpp."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from zhuzi import _core
from zhuzi._show import Report
from zhuzi.corpus.read import read_texts
from zhuzi.errors import InputError, ModelFileError
from zhuzi.infer.template import ALPACA
from zhuzi.record.json_file import read_object, write_json
from zhuzi.record.output import new_file, new_folder
from zhuzi.record.place import PathLike
from zhuzi.record.provenance import write_record
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.files import CONFIG_FILE, FAST_FILE
from zhuzi.vocab.engines import GgufVocabulary, installed, load, special_tokens
from zhuzi.vocab.fast_file import SPACE, fast_file, why_inexact
from zhuzi.vocab.gguf_file import why_not_gguf, write_gguf

Format = Literal["hf", "gguf"]

TEMPLATE_FILE = "chat_template.jinja"

#: Texts made of random pieces that an export is checked with, and pieces in each.
_RANDOM_TEXTS, _RANDOM_PIECES = 2000, 12


@dataclass(frozen=True, repr=False)
class ExportedVocab(Report):
    """What `export_vocab` wrote."""

    path: Path
    format: Format
    vocab_size: int
    exact: bool
    """Whether a `tokenizer.json` (or GGUF) holds the vocabulary. If not, the folder is for transformers'
    SentencePiece backend, which gives the same ids, and for no engine that needs a `tokenizer.json`."""
    reason: str | None
    """Why no `tokenizer.json` can hold it."""
    checked: int
    """Texts whose ids were compared with the exported files loaded; 0 if the engine is not installed."""
    dead: int = 0
    """Pieces that no text becomes, in any engine: their rows are never trained."""

    def _headline(self) -> str:
        return f"{self.path}: {self.vocab_size:,} ids as {self.format}, {self.checked:,} texts checked"


def export_vocab(
    tokenizer: PathLike,
    out: PathLike,
    *,
    format: Format = "hf",  # noqa: A002  # as the command has it
    chat_template: PathLike | Literal["alpaca"] | None = "alpaca",
    split_special_tokens: bool = False,
    check: Sequence[PathLike] = (),
    overwrite: bool = False,
) -> ExportedVocab:
    """Write the vocabulary of `tokenizer` (a folder or a SentencePiece model) for another engine.

    `hf` is a folder for transformers and vLLM: `tokenizer.model`, `tokenizer.json`, `tokenizer_config.json`
    and a chat template. Where no `tokenizer.json` gives sentencepiece's ids (`why_inexact`), the folder names
    transformers' SentencePiece backend instead, which does. `gguf` is a vocabulary-only file for llama.cpp.

    `chat_template` is a Jinja file, "alpaca" (the published prompt; left out without BOS and EOS) or None.
    With `split_special_tokens` a `</s>` in a text is text in transformers too; chat templates then need
    `tokenizer.apply_chat_template(..., tokenizer_kwargs={"split_special_tokens": False})`.

    What was written is loaded and compared with Zhuzi's ids: on every piece, on random texts of pieces, and
    on the documents of `check`.

    Raises:
        ModelFileError: a damaged model, one that GGUF cannot hold, or ids that differ in the check.
        OutputExistsError: `out` may not be written.
        ImportError: `gguf` without the package of that name.
    """
    if format not in ("hf", "gguf"):
        raise ValueError(f"format is {format!r}; there are hf and gguf")
    source = Path(tokenizer)
    inputs = [source, *check]
    if chat_template not in (None, "alpaca"):
        inputs.append(Path(str(chat_template)))
    loaded = load(source)
    template = chat_template_text(chat_template, loaded)
    dead = len(_core.dead_pieces(loaded.model, str(source)))
    texts = chain(check_texts(loaded), read_texts(check) if check else ())
    if format == "gguf":
        if (refusal := why_not_gguf(loaded)) is not None:
            raise ModelFileError(f"{source}: no GGUF gives the ids of this vocabulary: {refusal}")
        with new_file(out, kind="vocabulary", overwrite=overwrite, inputs=inputs) as path:
            write_gguf(loaded, path, chat_template=template)
            checked = check_gguf(loaded, texts, path, source)
        return ExportedVocab(Path(out), format, loaded.vocab_size, True, None, checked, dead)
    reason = why_inexact(loaded)
    exact = reason is None
    with new_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        write_hf(loaded, folder, exact=exact, template=template, split=split_special_tokens)
        write_record(folder, "tokenizer", exported_from=str(source), fingerprint=loaded.fingerprint)
        checked = check_hf(loaded, texts, folder, source)
    return ExportedVocab(Path(out), format, loaded.vocab_size, exact, reason, checked, dead)


def write_hf(tokenizer: Tokenizer, folder: Path, *, exact: bool, template: str | None, split: bool) -> None:
    """Write the files of a tokenizer for transformers, with a `tokenizer.json` if that is `exact`."""
    tokenizer.save(folder)
    config: dict[str, Any] = read_object(folder / CONFIG_FILE, ModelFileError)
    config["split_special_tokens"] = split
    if exact:
        write_json(folder / FAST_FILE, fast_file(tokenizer))
        # transformers loads the tokenizer.json as it is, by this name in version 4 too. LlamaTokenizer would
        # build one of its own, in which special tokens are followed by other ids.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        for key in ("special_tokens_pattern", "legacy", "add_prefix_space"):
            config.pop(key)
    write_json(folder / CONFIG_FILE, config)
    if template is not None:
        (folder / TEMPLATE_FILE).write_text(template, "utf-8")


def alpaca_template() -> str:
    """The published prompt as a chat template: each question as in tuning, BOS before it, EOS after."""
    return ALPACA.jinja


def chat_template_text(wanted: PathLike | None, tokenizer: Tokenizer) -> str | None:
    """The text of a template: a Jinja file, or "alpaca", which needs BOS and EOS; None without one."""
    if wanted is None:
        return None
    if wanted == "alpaca":
        return None if tokenizer.bos_id is None or tokenizer.eos_id is None else ALPACA.jinja
    try:
        text = Path(wanted).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{wanted}: not UTF-8 at byte {error.start}; name a file with a Jinja template"
        ) from None
    if installed("jinja2") is not None:
        from zhuzi.infer.jinja import JinjaTemplate

        JinjaTemplate(str(wanted), text)  # raises where it is no template
    return text


def check_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Every piece, control pieces as plain text, and random texts of pieces: pairs that no real text has."""
    pieces = [piece.text.replace(SPACE, " ") for piece in tokenizer.pieces() if piece.kind == "NORMAL"]
    yield from pieces
    yield from (piece.text for piece in tokenizer.pieces() if piece.kind == "CONTROL")
    draw = random.Random(0)
    for _ in range(_RANDOM_TEXTS):
        yield "".join(draw.choices(pieces, k=_RANDOM_PIECES))


def check_gguf(tokenizer: Tokenizer, texts: Iterable[str], path: Path, source: Path) -> int:
    """Load the file with llama.cpp and compare the ids of texts, alone and between special tokens.

    Gives the number of texts; 0 if llama.cpp is not installed. Raises `ModelFileError` if ids differ.
    """
    if installed("llama-cpp-python") is None:
        return 0
    vocabulary = GgufVocabulary(path)
    eos, special = tokenizer.eos_id, special_tokens(tokenizer)
    n = 0
    for text in texts:
        n += 1
        ids = tokenizer.encode(text)
        same = vocabulary.encode([text]) == [ids]
        if same and eos is not None and n % 16 == 0 and not any(token in text for token in special):
            end = tokenizer.id_to_token(eos)
            same = vocabulary.encode([end + text + end], special=True) == [[eos, *ids, eos]]
        if not same:
            raise ModelFileError(
                f"{source}: llama.cpp gives other ids for {text[:60]!r}; nothing was written"
            )
    return n


def check_hf(tokenizer: Tokenizer, texts: Iterable[str], folder: Path, source: Path) -> int:
    """Load the folder as its users do, and compare the ids of texts, alone and between special tokens.

    Gives the number of texts; 0 if transformers is not installed. Raises `ModelFileError` if ids differ.
    """
    if installed("transformers") is None:
        return 0
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    eos, special = tokenizer.eos_id, special_tokens(tokenizer)
    n = 0
    for text in texts:
        n += 1
        ids = tokenizer.encode(text)
        same = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
        if same and eos is not None and n % 16 == 0 and not any(token in text for token in special):
            marked = theirs.eos_token + text + theirs.eos_token
            found = theirs(marked, add_special_tokens=False, split_special_tokens=False)["input_ids"]
            same = found == [eos, *ids, eos]
        if not same:
            raise ModelFileError(
                f"{source}: transformers gives other ids for {text[:60]!r}; nothing was written. "
                "Use zhuzi.hf.ZhuziTokenizer"
            )
    return n
