"""Continued BPE: a base learns further pieces from text or from counted words."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike as PathLikeBase
from pathlib import Path
from typing import Literal

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._process import available_cores
from zhuzi._show import Report, count
from zhuzi.corpus.read import TextReader, read_texts
from zhuzi.errors import InputError, Part, VocabSizeError, naming
from zhuzi.record.output import new_folder
from zhuzi.record.place import PathLike
from zhuzi.record.provenance import write_record
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.files import read_model
from zhuzi.vocab.added import left_out_of_base
from zhuzi.vocab.merge import _model_file
from zhuzi.vocab.progress import Clock, TrainingProgress
from zhuzi.vocab.run_counts import RunCounts
from zhuzi.vocab.sample import SAMPLE_BYTES, SAMPLE_RANGE, Sample
from zhuzi.vocab.words import read_counts, read_list

Scripts = Literal["han", "all"]

#: Characters of the longest piece that may be asked for.
MAX_LENGTH = 64


@dataclass(frozen=True, repr=False)
class ExtendedVocab(Report):
    """What `extend_vocab` made, and from what."""

    folder: Path
    base_size: int
    """Pieces of the base's model."""
    new_pieces: int
    characters: int
    """New pieces that are characters of the list, which came in first."""
    unseen_characters: int
    """Of these, characters that neither text nor words have: what the list costs."""
    vocab_size: int
    """Ids in all, added tokens included."""
    scripts: Scripts
    placement: Literal["above", "below"]
    """Where the new scores lie: above those of the base's pieces, or below."""
    moved: Mapping[str, tuple[int, int]]
    """Added tokens of the base: their ids there and here. `model extend` moves their rows."""
    already: Mapping[str, int]
    """Tokens of `add_tokens` that the base already had, with their ids; they are not added again."""
    documents: int
    bytes: int
    """Bytes of the input's text in UTF-8."""
    used_bytes: int
    """Of these, bytes learned from; fewer where the text exceeds the sample."""
    words: int
    """Words of the counts file."""
    seed: int
    empty_documents: int
    bad_records: int
    notes: tuple[str, ...] = ()
    """What else was left out, one line each."""

    @property
    def sampled(self) -> bool:
        """Whether the text exceeded the sample."""
        return self.used_bytes < self.bytes

    def _headline(self) -> str:
        return f"{self.folder}: {self.vocab_size:,} ids, {count(self.new_pieces, 'new piece')}"


@dataclass(frozen=True)
class _Size:
    """How many pieces were asked for, and by which option."""

    new_pieces: int | None
    vocab_size: int | None

    def check(self) -> None:
        if (self.new_pieces is None) == (self.vocab_size is None):
            raise naming(ValueError, "give one of ", ("new_pieces", None), " and ", ("vocab_size", None))
        for name, size in (("new_pieces", self.new_pieces), ("vocab_size", self.vocab_size)):
            if size is not None and not 1 <= size < 1 << 31:
                raise naming(ValueError, (name, None), f" is {size}; give 1 or more, and less than 2^31")

    def pieces(self, others: int) -> int:
        """The number of new pieces beside `others` ids."""
        if self.vocab_size is None:
            return self.new_pieces or 0
        if self.vocab_size <= others:
            raise naming(
                ValueError,
                ("vocab_size", None),
                f" is {self.vocab_size:,}, and the base with its added tokens has {others:,} ids; give more",
            )
        return self.vocab_size - others

    def too_many(
        self, asked: int, limit: int, others: int, scripts: Scripts, min_count: int
    ) -> VocabSizeError:
        option = ("new_pieces", limit) if self.vocab_size is None else ("vocab_size", limit + others)
        lower: tuple[Part, ...] = (" or lower ", ("min_count", None)) if min_count > 1 else ()
        if limit == 0:
            only: tuple[Part, ...] = (
                (" (with ", ("scripts", "han"), " only Han counts)") if scripts == "han" else ()
            )
            return naming(
                partial(VocabSizeError, limit=option[1]),
                "the text gives no new piece",
                *only,
                "; give more or other text",
                *(lower and (",", *lower)),
            )
        return naming(
            partial(VocabSizeError, limit=option[1]),
            f"the text gives no more than {limit:,} of {asked:,} new pieces; ask for ",
            option,
            " at most, give more text," if lower else " at most, or give more text",
            *lower,
        )


def extend_vocab(
    inputs: PathLike | Sequence[PathLike],
    base: PathLike,
    out: PathLike,
    *,
    new_pieces: int | None = None,
    vocab_size: int | None = None,
    scripts: Scripts = "han",
    counts: PathLike | None = None,
    characters: str | PathLike | None = None,
    max_length: int = 16,
    min_count: int = 2,
    protected: PathLike | Sequence[str] = (),
    forbidden: PathLike | Sequence[str] = (),
    add_tokens: Sequence[str] = (),
    field: str | Sequence[str] = "text",
    split: Literal["line", "blank-line", "separator", "file"] = "line",
    separator: str | None = None,
    stdin_format: Literal["jsonl", "txt"] = "jsonl",
    on_error: Literal["stop", "skip"] = "stop",
    sample_bytes: int = SAMPLE_BYTES,
    seed: int = 42,
    num_threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> ExtendedVocab:
    """Learn new pieces for the BPE model `base` from text, from counted words, or from both; write a folder.

    Continued BPE: the pair of tokens side by side that is counted most becomes a piece, again and again,
    starting from the base's own tokens (arXiv 2512.03989). The new scores fall in the order of learning, so
    that every new piece is reached and no old one is lost, which is checked before anything is written.

    With `scripts="han"` every new piece holds a Han character, and beside Han only punctuation of Chinese
    text and `▁` at its start: text without Han keeps its ids. "all" learns from every script; no new piece
    holds a digit. Text is cut at white space, at a change between Chinese and other text, and after a
    sentence; no new piece crosses a cut.

    `characters` come in first: "common" (with "han" the default) are the 8,105 of the Table of General
    Standard Chinese Characters, "none" (with "all" the default) leaves all to the text, where a character
    that the base spells in three bytes counts twice; or a file of characters. `protected` and `forbidden`
    are pieces, or files with one a line. `counts` is a file of words with counts (`read_counts`).

    Ids: the base's pieces, the new ones, the base's added tokens (moved, see `merge_vocab`), `add_tokens`.
    `vocab_size` counts them all. The result is the same for any number of threads, and for a corpus in one
    file or in many.

    Raises:
        ModelFileError: a damaged model, or a base that is not SentencePiece BPE.
        InputError: a record or a count that cannot be read, or no text at all.
        VocabSizeError: the text does not give so many pieces; `limit` is what it gives.
        ValueError: an argument out of range, a piece that cannot be protected.
        OutputExistsError: `out` may not be written.
    """
    inputs = one_or_more(inputs)
    _check(inputs, counts, scripts, max_length, min_count, sample_bytes)
    reader = partial(
        read_texts,
        field=field,
        split=split,
        separator=separator,
        stdin_format=stdin_format,
        on_error=on_error,
    )
    work = _Work(
        size=_Size(new_pieces, vocab_size),
        scripts=scripts,
        counts=counts,
        characters=characters,
        max_length=max_length,
        min_count=min_count,
        protected=protected,
        forbidden=forbidden,
        threads=num_threads or available_cores(),
        clock=Clock(progress),
    )
    sources = [*inputs, *([] if counts is None else [counts])]
    with new_folder(Path(out), overwrite=overwrite, inputs=[base, *sources]) as folder:
        made = work.run(Path(base), inputs, add_tokens, reader, Sample(sample_bytes, seed), folder)
    return replace(made, folder=Path(out), seed=seed)


@dataclass(frozen=True)
class _Work:
    """What is asked for, checked as far as it can be before anything is read."""

    size: _Size
    scripts: Scripts
    counts: PathLike | None
    characters: str | PathLike | None
    max_length: int
    min_count: int
    protected: PathLike | Sequence[str]
    forbidden: PathLike | Sequence[str]
    threads: int
    clock: Clock

    def run(
        self,
        base: Path,
        inputs: Sequence[PathLike],
        add_tokens: Sequence[str],
        reader: Callable[[Sequence[PathLike]], TextReader],
        sample: Sample,
        folder: Path,
    ) -> ExtendedVocab:
        """Learn and write the folder."""
        self.size.check()
        base_file = _model_file(base)
        model = read_model(base_file)
        make = partial(_core.RunCounter, model, str(base_file), self.scripts)
        make()  # raises for a base that cannot be extended
        plain = Tokenizer(model, origin=str(base_file))
        beside = Tokenizer.from_dir(base).added_tokens if base.is_dir() else ()
        known = _already(add_tokens, plain, beside, base_file)
        added = [*beside, *(token for token in add_tokens if token not in known)]
        others = plain.vocab_size + len(added)
        asked = self.size.pieces(others)
        listed = _characters(self.characters, self.scripts)
        protected, forbidden = _pieces(self.protected), _pieces(self.forbidden)
        self._check_lists(plain, listed, protected, {*forbidden, *added}, asked)
        texts = reader(inputs) if inputs else None
        counter, words = self._count(make, texts, sample)
        extended, placement, new_pieces, characters, unseen = counter.extend(
            scripts=self.scripts,
            new_pieces=asked,
            beside=added,
            threads=self.threads,
            progress=self._learning(asked),
            characters=listed,
            max_length=self.max_length,
            min_count=self.min_count,
            protected=protected,
            forbidden=forbidden,
        )
        if new_pieces < asked:
            raise self.size.too_many(asked, new_pieces, others, self.scripts, self.min_count)
        tokenizer = Tokenizer(extended, added_tokens=added, origin=str(base_file))
        moved = {t: (plain.vocab_size + i, plain.vocab_size + asked + i) for i, t in enumerate(beside)}
        tokenizer.save(folder)
        made = ExtendedVocab(
            folder=folder,
            base_size=plain.vocab_size,
            new_pieces=new_pieces,
            characters=characters,
            unseen_characters=unseen,
            vocab_size=tokenizer.vocab_size,
            scripts=self.scripts,
            placement=placement,
            moved=moved,
            already={token: id for token in known if (id := tokenizer.token_to_id(token)) is not None},
            documents=sample.documents,
            bytes=sample.bytes,
            used_bytes=sample.used_bytes,
            words=words,
            seed=0,
            empty_documents=texts.empty_documents if texts else 0,
            bad_records=texts.bad_records if texts else 0,
            notes=(*left_out_of_base(base), *(texts.notes() if texts else ())),
        )
        write_record(
            folder,
            "tokenizer",
            base=str(base),
            inputs=[str(source) for source in inputs],
            counts=None if self.counts is None else str(self.counts),
            scripts=self.scripts,
            new_pieces=new_pieces,
            used_bytes=sample.used_bytes,
            placement=placement,
            fingerprint=tokenizer.fingerprint,
            moved=moved,
        )
        return made

    def _check_lists(
        self, base: Tokenizer, listed: str, protected: Sequence[str], refused: Container[str], asked: int
    ) -> None:
        """Refuse lists that contradict each other or the size, before the text is read."""
        if both := [piece for piece in protected if piece in refused]:
            raise naming(
                ValueError,
                f"`{both[0]}` is one of ",
                ("protected", None),
                " and also forbidden or an added token; leave it out of one",
            )
        first = sum(c not in refused and base.token_to_id(c) is None for c in listed)
        if first > asked:
            raise naming(
                ValueError,
                f"{first:,} characters that the base lacks come first, more than the {asked:,} new pieces; "
                "ask for more pieces, or give ",
                ("characters", "none"),
                " or a shorter list",
            )

    def _count(
        self, make: Callable[[], _core.RunCounter], texts: TextReader | None, sample: Sample
    ) -> tuple[_core.RunCounter, int]:
        """Count the runs of the text and of the words; returns them, and how many words there are."""
        with RunCounts(make, sample, self.threads) as counts:
            if texts is not None:
                for block in texts.blocks():
                    sample.add_all(block)
                    counts.count_early(texts.total_bytes)
                    if self.clock.is_due("reading"):
                        self.clock.show(texts.bytes_read, texts.total_bytes)
            sample.close()
            counts.count_rest(self._counting)
            counter = counts.counter
        words = 0
        for word, times in read_counts(self.counts) if self.counts is not None else ():
            counter.add_word(word, times)
            words += 1
        if not words and sample.blank:
            bad = (
                f" ({count(texts.bad_records, 'record')} could not be read)"
                if texts and texts.bad_records
                else ""
            )
            raise InputError(
                f"there is nothing to learn from, neither text nor counted words; name others{bad}"
            )
        return counter, words

    def _counting(self, done: int, total: int) -> None:
        if self.clock.is_due("counting"):
            self.clock.show(done, total)

    def _learning(self, asked: int) -> Callable[[int], None]:
        def show(done: int) -> None:
            if self.clock.is_due("training"):
                self.clock.show(share=done / asked)

        return show


def _check(
    inputs: Sequence[PathLike],
    counts: PathLike | None,
    scripts: str,
    max_length: int,
    min_count: int,
    sample_bytes: int,
) -> None:
    """Raise `ValueError` for invalid arguments, before anything is read."""
    if not inputs and counts is None:
        raise naming(ValueError, "no inputs; name files or folders of text, or give ", ("counts", None))
    if scripts not in ("han", "all"):
        raise ValueError(f"scripts must be 'han' or 'all', not {scripts!r}")
    if not 2 <= max_length <= MAX_LENGTH:
        raise naming(ValueError, ("max_length", None), f" is {max_length}; give 2 to {MAX_LENGTH} characters")
    if not 1 <= min_count < 1 << 63:
        raise naming(ValueError, ("min_count", None), f" is {min_count}; give 1 or more, and less than 2^63")
    low, high = SAMPLE_RANGE
    if not low <= sample_bytes <= high:
        raise ValueError(f"sample_bytes is {sample_bytes:,}; give {low:,} to {high:,}")


def _characters(given: str | PathLike | None, scripts: Scripts) -> str:
    """The characters that come in first, in their order, each once."""
    if given is None:
        given = "common" if scripts == "han" else "none"
    if str(given) == "none":
        return ""
    if str(given) == "common":
        return _core.common_han()
    return "".join(dict.fromkeys("".join("".join(line.split()) for line in read_list(given))))


def _pieces(given: PathLike | Sequence[str]) -> list[str]:
    """Pieces, or those of a file, with `▁` for spaces and each once."""
    if isinstance(given, str | PathLikeBase):
        given = read_list(given)
    return list(dict.fromkeys(piece.replace(" ", "\u2581") for piece in given))


def _already(add_tokens: Sequence[str], base: Tokenizer, beside: Sequence[str], base_file: Path) -> list[str]:
    """Those of `add_tokens` that the base already has as tokens that text never becomes."""
    if isinstance(add_tokens, str):
        raise TypeError("add_tokens wants a list of tokens; for one token write [token]")
    already = []
    kinds = [piece.kind for piece in base.pieces()] if add_tokens else []
    for position, token in enumerate(add_tokens):
        id = base.token_to_id(token)
        if token == "" or token in add_tokens[:position]:
            what = (
                f"`{token}` is given twice; give it once"
                if token
                else "is empty; give it a name, such as [PAD]"
            )
            raise ValueError(f"an added token {what}")
        if token in beside or (id is not None and kinds[id] == "CONTROL"):
            already.append(token)
        elif id is not None:
            raise ValueError(
                f"added token `{token}` is a piece of the base {base_file}, its id {id}: text can become it; "
                "choose another name"
            )
    return already
