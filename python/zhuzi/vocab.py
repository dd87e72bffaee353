"""Vocabularies: train a Chinese donor, merge it into a base."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zhuzi import _core
from zhuzi._output import PathLike, new_folder, require_free_file
from zhuzi.errors import InputError, VocabSizeError, ZhuziError
from zhuzi.tokenizer import Tokenizer, available_cores, read_model

#: Pieces of the published Chinese donor (arXiv 2304.08177).
PAPER_VOCAB_SIZE = 20_000


@dataclass(frozen=True)
class TrainedVocab:
    """What `train_vocab` made."""

    path: Path
    pieces: int
    documents: int
    characters: int


@dataclass(frozen=True)
class MergedVocab:
    """What `merge_vocab` made."""

    folder: Path
    base_size: int
    appended: int
    """Pieces of the donor that the base lacked."""
    shared: int
    """Pieces of the donor that the base already had."""
    left_out: int
    """Control, unknown and byte pieces of the donor that the base lacks."""
    vocab_size: int
    """Ids in all, added tokens included."""


def train_vocab(
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    vocab_size: int = PAPER_VOCAB_SIZE,
    model_type: Literal["unigram", "bpe"] = "unigram",
    field: str = "text",
    character_coverage: float = 0.9995,
    num_threads: int | None = None,
    overwrite: bool = False,
) -> TrainedVocab:
    """Train a donor vocabulary on txt (a document a line) or jsonl files and write it to the file `out`.

    Training is SentencePiece's own, with its normaliser nmt_nfkc as in the published donor and digits split
    as in LLaMA's model. Raises `InputError` for a record that cannot be read and `ZhuziError` where
    SentencePiece gives up, with what mends it.
    """
    import sentencepiece

    out = Path(out)
    inputs = one_or_more(inputs)
    if not inputs:
        raise ValueError("no input files; name .txt or .jsonl files")
    require_free_file(out, overwrite=overwrite, inputs=inputs)
    counts = {"documents": 0, "characters": 0}
    unreadable: list[Exception] = []

    def lines() -> Iterator[str]:
        try:
            for text in read_documents(inputs, field=field):
                counts["documents"] += 1
                counts["characters"] += len(text)
                yield from text.split("\n")
        except (OSError, InputError) as error:  # the trainer would take it for the end of the text
            unreadable.append(error)

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
        prefix = Path(folder) / "donor"
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines(),
                model_prefix=str(prefix),
                model_type=model_type,
                vocab_size=vocab_size,
                character_coverage=character_coverage,
                normalization_rule_name="nmt_nfkc",
                split_digits=True,
                max_sentence_length=1 << 20,
                num_threads=num_threads or available_cores(),
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise (unreadable or [_explain(str(error), vocab_size, counts)])[0] from None
        if unreadable:
            raise unreadable[0]
        made = prefix.with_suffix(".model")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(made)).get_piece_size()
        made.replace(out)
    return TrainedVocab(out, pieces, counts["documents"], counts["characters"])


def _explain(message: str, vocab_size: int, counts: dict[str, int]) -> ZhuziError:
    """What SentencePiece's trainer says in several lines as one, with the mend."""
    message = " ".join(message.split())
    corpus = f"{counts['documents']:,} documents of {counts['characters']:,} characters"
    if counts["characters"] == 0:
        return InputError("the input holds no text to train on; give .txt or .jsonl files with text")
    if too_high := re.search(r"size too high .*<= (\d+)", message):
        limit = int(too_high[1])
        return VocabSizeError(
            f"{corpus} do not give {vocab_size:,} pieces; ask for --vocab-size {limit} at most, or give "
            "more text",
            limit,
        )
    if too_low := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        limit = int(too_low[1])
        return VocabSizeError(
            f"the characters of {corpus} alone need {limit:,} pieces; ask for a --vocab-size above that, or "
            "lower --character-coverage",
            limit,
        )
    return ZhuziError(
        f"SentencePiece could not train {vocab_size:,} pieces on {corpus} ({message}); "
        "a smaller --vocab-size or more text usually mends it"
    )


def merge_vocab(
    base: PathLike,
    donor: PathLike,
    out: PathLike,
    *,
    policy: str = "paper",
    add_tokens: Sequence[str] = (),
    overwrite: bool = False,
) -> MergedVocab:
    """Append to the model `base` the pieces of `donor` that it lacks, and write a tokenizer folder.

    Policy "paper" is the published one: every lacking piece, in the donor's order, with score 0. The base's
    ids keep their meaning. `add_tokens` get the next ids beside the model, which stays the same to the byte;
    text never makes them. LLaMA (32,000) with the published donor gives 49,953 ids, 49,954 with "[PAD]".

    Raises `ModelFileError` for a damaged model, a base that is not BPE or a donor that adds nothing, and
    `OutputExistsError` if `out` holds something.
    """
    base, donor, out = Path(base), Path(donor), Path(out)
    if isinstance(add_tokens, str):
        raise TypeError("add_tokens wants a list of tokens; for one token write [token]")
    with new_folder(out, overwrite=overwrite, inputs=[base, donor]) as folder:
        merged, appended, shared, left_out = _core.merge_vocab(
            read_model(base), str(base), read_model(donor), str(donor), policy
        )
        tokenizer = Tokenizer(merged, added_tokens=add_tokens, origin=str(base))
        tokenizer.save(folder)
        record = {
            "format": 1,
            "kind": "tokenizer",
            "zhuzi": _core.__version__,
            "base": str(base),
            "donor": str(donor),
            "policy": policy,
            "fingerprint": tokenizer.fingerprint,
        }
        (folder / "zhuzi.json").write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", "utf-8")
    base_size = tokenizer.vocab_size - len(add_tokens) - appended
    return MergedVocab(out, base_size, appended, shared, left_out, tokenizer.vocab_size)


def one_or_more(paths: PathLike | Sequence[PathLike]) -> Sequence[PathLike]:
    """A path alone as a list of one."""
    return [paths] if isinstance(paths, str | os.PathLike) else paths


def read_documents(inputs: Sequence[PathLike], *, field: str = "text") -> Iterator[str]:
    """Texts of txt (a document a line) and jsonl (a JSON object a line) files, in order, empty ones too.

    Raises `InputError` naming file and line of a record that cannot be read.
    """
    for path in map(Path, inputs):
        if path.suffix not in {".txt", ".jsonl"}:
            raise InputError(f"{path}: not a kind of file we read; .jsonl and .txt are")
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                line = raw.removesuffix(b"\n").removesuffix(b"\r")
                try:
                    yield _document(line.decode("utf-8"), path.suffix, field)
                except UnicodeError as error:
                    reason = f"not UTF-8 ({error.reason} at character {error.start})"  # type: ignore[attr-defined]
                    raise InputError(f"{path}: line {number}: {reason}; convert the file") from None
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}: line {number}: no JSON object with a text ({error})") from None


def _document(line: str, suffix: str, field: str) -> str:
    if suffix == ".txt" or not line.strip():
        return line
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        raise ValueError(f"no JSON object with a text in `{field}`; name the right field with --field")
    text: str = record[field]
    text.encode("utf-8")  # JSON can spell half a character (a lone surrogate), which is no text
    return text
