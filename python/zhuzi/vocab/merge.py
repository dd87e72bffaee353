"""Merging the pieces of donors into a base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi.corpus.read import TextReader, read_texts
from zhuzi.errors import ModelFileError, naming
from zhuzi.record.json_file import write_json
from zhuzi.record.output import new_file, new_folder
from zhuzi.record.place import PathLike, require_free, require_free_file
from zhuzi.record.provenance import write_record
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.files import FAST_FILE, HF_MODEL_FILE, MODEL_FILE, find_model, read_model
from zhuzi.vocab.added import already_there, left_out_of_base, left_out_of_donor, tokens_beside
from zhuzi.vocab.counting import count_tokens
from zhuzi.vocab.merge_options import MergeKeywords, MergeOptions
from zhuzi.vocab.merged import DonorCounts, LeftOutPiece, MergedVocab, NewPiece

if TYPE_CHECKING:
    from zhuzi._core import _Merged


def merge_vocab(
    base: PathLike,
    donor: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    corpus: PathLike | Sequence[PathLike] | TextReader | None = None,
    add_tokens: Sequence[str] = (),
    report: PathLike | None = None,
    num_threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
    options: MergeOptions | None = None,
    **keywords: Unpack[MergeKeywords],
) -> MergedVocab:
    """Append to the model `base` the pieces of `donor` that it lacks, and write a tokenizer folder.

    All are SentencePiece models or folders with a `tokenizer.model`; `donor` may be several. Options come as
    one `MergeOptions` or as its fields. By default the merge is the published one: every missing piece, in
    the donor's order, with score 0. User-defined and unused pieces stay so. The ids of the base's pieces do
    not change.

    The order is that of the donors as given, and of the pieces in each. With a `corpus` (inputs as of
    `encode_corpus`, or a `read_texts` with its options) the pieces that are made most often of its text come
    first: as tokens or inside longer pieces, in an encoding with all pieces that pass the filters. It is read
    once, on `num_threads` threads; `progress(bytes, total_bytes)` is called meanwhile.

    After the pieces come the added tokens of a base folder (`<pad>`, ChatML's), then those of `add_tokens`
    that the base lacks; text never becomes one. The former's old ids now belong to the donor's pieces: the
    record `zhuzi.json` has each token's old and new id under `moved_tokens`, and `extend_model` moves their
    rows. With `added_tokens="keep"` those that have a row keep their ids instead. LLaMA (32,000) with the
    published donor gives 49,953 ids, 49,954 with "[PAD]".

    `report` is a JSON file to write: every piece that came in or did not, and why.

    Raises:
        ModelFileError: a damaged model, a base that is not BPE, donors that add nothing.
        InputError: a record of `corpus` that cannot be read, or no text.
        ValueError: an option out of range, or a token to add that is empty, given twice, or a piece.
        OutputExistsError: `out` or `report` may not be written.
    """
    if isinstance(add_tokens, str):
        raise TypeError("add_tokens wants a list of tokens; for one token write [token]")
    if options is None:
        options = MergeOptions(**keywords)
    elif keywords:
        raise TypeError("merge_vocab() takes options=MergeOptions(...) or its fields as keywords, not both")
    base, out, donors = Path(base), Path(out), [Path(path) for path in one_or_more(donor)]
    texts = _texts(corpus)
    inputs: list[PathLike] = [base, *donors, *([path for path, _ in texts.files] if texts else [])]
    require_free(out, overwrite=overwrite, inputs=inputs)
    if report is not None:
        _require_report(report, out, overwrite=overwrite, inputs=inputs)
    merge = _Merge(base, donors, options)
    counts = merge.count(texts, num_threads, progress) if texts else None
    with new_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        made = merge.write(folder, out, add_tokens, counts, texts)
    if report is not None:
        with new_file(report, kind="merge report", overwrite=overwrite, inputs=inputs) as path:
            write_json(path, made.as_json())
    return made


class _Merge:
    """The models and tokens of one merge."""

    def __init__(self, base: Path, donors: Sequence[Path], options: MergeOptions) -> None:
        self.base, self.donors, self.options = base, donors, options
        self.kept, self.moving = tokens_beside(base, keep=options.added_tokens == "keep")
        self.base_file = _model_file(base)
        self.donor_files = [_model_file(donor) for donor in donors]
        self.base_model = (read_model(self.base_file), str(self.base_file))
        self.donor_models = [(read_model(file), str(file)) for file in self.donor_files]
        for i, (model, path) in enumerate(self.donor_models):
            if model in [data for data, _ in self.donor_models[:i]]:
                raise ValueError(f"donor {path}: given twice; give each donor once")

    def count(
        self, texts: TextReader, num_threads: int | None, progress: Callable[[int, int], object] | None
    ) -> list[int]:
        """The tokens of each piece in the text, with all pieces in that pass the filters."""
        tokens = [*self.kept, *self.moving]
        model = _core.counting_model(self.base_model, self.donor_models, tokens, self.options)
        counting = Tokenizer(model, origin=str(self.base_file))
        return count_tokens(texts, counting, num_threads=num_threads, progress=progress)

    def write(
        self,
        folder: Path,
        out: Path,
        add_tokens: Sequence[str],
        counts: list[int] | None,
        texts: TextReader | None,
    ) -> MergedVocab:
        """Merge, and write the tokenizer into `folder`, which will be `out`."""
        kept, moving = self.kept, self.moving
        merged = _core.merge_vocab(self.base_model, self.donor_models, kept, moving, self.options, counts)
        appended = len(merged["new"])
        plain = Tokenizer(merged["model"], origin=str(self.base_file))
        base_size = plain.vocab_size - appended - len(kept)
        known = already_there(
            add_tokens, plain, base_size, [*kept, *moving], self.base_file, self.donor_files
        )
        added = [*moving, *(token for token in add_tokens if token not in known)]
        tokenizer = Tokenizer(merged["model"], added_tokens=added, origin=str(self.base_file))
        first_moving = base_size + len(kept)
        moved = {token: (first_moving + i, plain.vocab_size + i) for i, token in enumerate(moving)}
        tokenizer.save(folder)
        one = len(self.donors) == 1
        write_record(
            folder,
            "tokenizer",
            base=str(self.base),
            donor=str(self.donors[0]) if one else [str(donor) for donor in self.donors],
            policy=self.options.policy,
            fingerprint=tokenizer.fingerprint,
            moved=moved,
            **self._facts(kept, base_size, texts),
        )
        return self._report(out, merged, tokenizer, base_size, known, moved, texts)

    def _facts(self, kept: Sequence[str], base_size: int, texts: TextReader | None) -> dict[str, object]:
        """What a record says besides: options that are not the default, and what was counted."""
        default = MergeOptions()
        names = [name for name in vars(default) if name != "policy"]
        own = {name: getattr(self.options, name) for name in names}
        facts: dict[str, object] = {}
        if changed := {name: value for name, value in own.items() if value != getattr(default, name)}:
            facts["options"] = changed
        if kept:
            facts["kept_tokens"] = {token: base_size + i for i, token in enumerate(kept)}
        if texts:
            facts["corpus"] = [path for path, _ in texts.files]
        return facts

    def _report(
        self,
        out: Path,
        merged: _Merged,
        tokenizer: Tokenizer,
        base_size: int,
        known: Sequence[str],
        moved: dict[str, tuple[int, int]],
        texts: TextReader | None,
    ) -> MergedVocab:
        """What was made."""
        first_new = base_size + len(self.kept)
        new = tuple(NewPiece(first_new + i, *piece) for i, piece in enumerate(merged["new"]))
        left_out = tuple(LeftOutPiece(*piece) for piece in merged["left_out"])
        reasons = Counter(piece.reason for piece in left_out)
        notes = [] if self.base.is_dir() else left_out_of_base(self.base)
        for donor in self.donors:
            notes += left_out_of_donor(donor) if donor.is_dir() else []
        return MergedVocab(
            folder=out,
            base_size=base_size,
            appended=len(new),
            shared=reasons["in_base"],
            left_out_pieces=tuple(piece.piece for piece in left_out if piece.reason == "no_text"),
            user_defined=tuple(piece.piece for piece in new if piece.kind == "USER_DEFINED"),
            kept_as_in_base=tuple(merged["overruled"]),
            moved=moved,
            already={token: id for token in known if (id := tokenizer.token_to_id(token)) is not None},
            vocab_size=tokenizer.vocab_size,
            notes=(*notes, *(texts.notes() if texts else ())),
            kept={token: base_size + i for i, token in enumerate(self.kept)},
            donors=tuple(_counts(donor, number, new, left_out) for number, donor in enumerate(self.donors)),
            new_pieces=new,
            not_taken=left_out,
            dead=tuple(tokenizer.id_to_token(id) for id in merged["dead"]),
            killed=tuple(tokenizer.id_to_token(id) for id in merged["killed"]),
            counted_bytes=texts.bytes_read if texts else None,
        )


def _counts(
    donor: Path, number: int, new: Sequence[NewPiece], left_out: Sequence[LeftOutPiece]
) -> DonorCounts:
    reasons = Counter(piece.reason for piece in left_out if piece.donor == number)
    appended = sum(piece.donor == number for piece in new)
    return DonorCounts(donor, appended + reasons.total(), appended, dict(reasons))


def _texts(corpus: PathLike | Sequence[PathLike] | TextReader | None) -> TextReader | None:
    """The text to count in."""
    if corpus is None or isinstance(corpus, TextReader):
        return corpus
    return read_texts(corpus) if one_or_more(corpus) else None


def _require_report(report: PathLike, out: Path, *, overwrite: bool, inputs: Sequence[PathLike]) -> None:
    """Raise if the report cannot be written, before any work."""
    if Path(report).resolve().is_relative_to(out.resolve()):
        raise naming(
            ValueError, ("report", None), f" is {report}, inside the folder to write; give a place outside it"
        )
    require_free_file(report, overwrite=overwrite, inputs=inputs)


def _model_file(path: Path) -> Path:
    """The SentencePiece model that a file or folder names."""
    if path.suffix == ".json" and path.is_file():
        raise ModelFileError(
            f"{path}: is not a SentencePiece model; give {path.with_name(MODEL_FILE)}"
            if path.with_name(MODEL_FILE).exists()
            else f"{path}: is not a SentencePiece model, and there is no {MODEL_FILE} beside it; LLaMA 3 and "
            "Qwen have none, take a base that comes with one"
        )
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).exists():
        if any((path / name).exists() for name in (FAST_FILE, HF_MODEL_FILE, "vocab.json")):
            return find_model(path)
        raise ModelFileError(f"{path}: holds no {MODEL_FILE}; name a SentencePiece model file")
    return path / MODEL_FILE
