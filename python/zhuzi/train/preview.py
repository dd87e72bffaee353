"""Records as the model will see them: `zhuzi sft RECIPE --preview 5`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from zhuzi.infer.templates import template_named
from zhuzi.model.folder import ModelFolder
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.conversations import Conversation
from zhuzi.train.data import IGNORED, RecordEncoder
from zhuzi.train.progress import warn
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.recipe_file import resolve_recipe
from zhuzi.train.sources import SourceReader, no_records


@dataclass(frozen=True)
class PreviewedRecord:
    """One record as tuning uses it."""

    place: str
    """File and line."""
    ids: list[int]
    labels: list[int]
    """-100 where there is no loss."""
    parts: list[tuple[str, str]]
    """Kind and text, in order: "read", "learned" (a target), "control" and "learned control" (tokens that are
    no text)."""
    note: str
    """What of it is left out or cut; empty if nothing is."""


def preview_records(
    recipe: SftRecipe | str | Path, records: int = 5, *, settings: Sequence[str] = ()
) -> Iterator[PreviewedRecord]:
    """The first records of a recipe, in turn from each file that it names, as the model will see them.

    Only the tokenizer is loaded, and little more is read than is shown. Wrong records raise or are passed
    over, as the recipe says; a warning at the end names those that were passed over.

    Raises:
        RecipeError: the recipe is invalid.
        InputError: a wrong record, a file that is not there, or a template that cannot be used.
    """
    recipe = resolve_recipe(recipe, SftRecipe, settings)
    tokenizer = ModelFolder.open(recipe.model).tokenizer
    encoder = RecordEncoder(
        tokenizer,
        recipe.sequence_length,
        template=template_named(recipe.template),
        train_on_prompt=recipe.train_on_prompt,
    )
    readers = [
        SourceReader(replace(source, files=(path,)), recipe.on_error)
        for source in recipe.sources
        for path in source.files
    ]
    control = {id for id, piece in enumerate(tokenizer.pieces()) if piece.kind == "CONTROL"}
    shown = (_previewed(encoder, tokenizer, control, *found) for found in _in_turn(readers))
    return _noted(islice(shown, records), readers)


def _noted(shown: Iterator[PreviewedRecord], readers: Sequence[SourceReader]) -> Iterator[PreviewedRecord]:
    """The records, then warnings of what the readers left out."""
    yield from shown
    for reader in readers:
        for note in reader.notes():
            warn(note)


def _in_turn(readers: Sequence[SourceReader]) -> Iterator[tuple[Conversation, str]]:
    """A conversation of each reader, then the next of each, until all are at their ends."""
    left = dict.fromkeys(range(len(readers)))
    open_readers = [reader.conversations() for reader in readers]
    empty = True
    for at in cycle(range(len(readers))):
        if not left:
            break
        if at in left:
            with suppress(StopIteration):
                yield next(open_readers[at])
                empty = False
                continue
            del left[at]
    if empty and not any(reader.skipped for reader in readers):
        raise no_records([file for reader in readers for file in reader.files])


def _previewed(
    encoder: RecordEncoder, tokenizer: Tokenizer, control: Set[int], conversation: Conversation, place: str
) -> PreviewedRecord:
    before = dict(vars(encoder))
    item = encoder.encode(conversation)
    told = {
        "empty_outputs": "left out: no answer has text",
        "left_out": f"left out: the prompt fills the {encoder.length:,} tokens",
        "cut": f"cut at {encoder.length:,} tokens",
        "unanswered": "its last question has no answer and is left out",
    }
    note = "; ".join(text for name, text in told.items() if vars(encoder)[name] > before[name])
    if item is None:
        return PreviewedRecord(place, [], [], [], note)
    labels = encoder.labels(item)
    parts = parts_of(tokenizer, control, item[0], labels)
    return PreviewedRecord(place, item[0], labels, list(parts), note)


def parts_of(
    tokenizer: Tokenizer, control: Set[int], ids: Sequence[int], labels: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Kind and text of runs of ids, as in `PreviewedRecord.parts`; `control` are the ids that are no text."""
    kinds = [
        ("control" if id in control else "", "learned" if label != IGNORED else "read")
        for id, label in zip(ids, labels, strict=True)
    ]
    begin, text_from = 0, 0
    for at in range(1, len(ids) + 1):
        if at < len(ids) and kinds[at] == kinds[begin] and not kinds[at][0]:
            continue
        if kinds[begin][0]:
            name = tokenizer.id_to_token(ids[begin])
            yield ("learned control" if kinds[begin][1] == "learned" else "control"), name
            text_from = at
        else:
            # Decoded after what is before: alone, a run would lose the space it begins with.
            shown = tokenizer.decode(ids[text_from:begin])
            yield kinds[begin][1], tokenizer.decode(ids[text_from:at])[len(shown) :]
        begin = at
