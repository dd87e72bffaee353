"""What the model sees: blocks of a corpus for pre-training, conversations for tuning."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi._show import count
from zhuzi.corpus.dataset import Corpus
from zhuzi.corpus.options import OnError
from zhuzi.corpus.read import RecordReader
from zhuzi.errors import InputError, MismatchError, TrainingError
from zhuzi.infer.template import ALPACA, Template
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.alpaca import check
from zhuzi.train.conversations import Conversation, conversations_of
from zhuzi.train.progress import tell, warn
from zhuzi.train.sources import (
    Source,
    SourceReader,
    no_records,
    open_records,
    sources_of,
)

IGNORED = -100  # the label that transformers' loss ignores

#: Ids of a conversation, and where its answers are in them: begin, end, begin, end, ...
Item = tuple[list[int], tuple[int, ...]]

# torch takes seconds to load: it is imported where a tensor is made, as reading and checking need none.
if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]


class Blocks:
    """A corpus cut into blocks of `length` tokens: the published `group_texts`.

    All documents are concatenated (the end-of-sequence ids between them are part of the corpus) and cut; an
    incomplete block at the end is dropped. A block is read from the memory map when it is asked for.

    Raises:
        TrainingError: fewer tokens than one block.
        InputError: an id beyond the model's rows (when its block is read).
    """

    def __init__(self, corpus: Corpus, length: int, rows: int) -> None:
        self.corpus, self.length, self.rows = corpus, length, rows
        if corpus.tokens < length:
            raise TrainingError(
                f"{corpus.path}: {corpus.tokens} tokens do not fill one block of {length}; "
                "encode more text, or lower sequence_length"
            )
        tell(
            f"{corpus.path}: {len(self):,} blocks of {length:,} tokens; the last {corpus.tokens % length:,} "
            "tokens are dropped"
        )

    def __len__(self) -> int:
        return self.corpus.tokens // self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        import torch

        ids = torch.from_numpy(self.corpus.slice(i * self.length, (i + 1) * self.length).astype("int64"))
        if int(ids.min()) < 0 or int(ids.max()) >= self.rows:
            raise InputError(
                f"{self.corpus.path}: block {i} holds an id outside the model's {self.rows} rows; "
                "encode the corpus again"
            )
        return ids


class SeparateBlocks(Blocks):
    """Blocks whose documents do not see each other: an item is ids, labels and positions, [length] each.

    Positions restart at 0 with each document: from that, transformers makes a mask that keeps them apart. The
    first token of a document is not to be predicted from the document before it.
    """

    def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
        import torch

        ids = super().__getitem__(i)
        starts = torch.from_numpy(self.corpus.starts(i * self.length, (i + 1) * self.length))
        labels, positions = ids.clone(), torch.arange(self.length)
        labels[starts] = IGNORED
        shift = torch.zeros_like(positions)
        shift[starts] = starts
        return ids, labels, positions - shift.cummax(0).values


def collate_separate(blocks: Sequence[tuple[torch.Tensor, ...]]) -> Batch:
    """[batch, length] ids, labels and positions of `SeparateBlocks`."""
    import torch

    names = ("input_ids", "labels", "position_ids")
    return {name: torch.stack(held) for name, held in zip(names, zip(*blocks, strict=True), strict=True)}


def collate_blocks(blocks: Sequence[torch.Tensor]) -> Batch:
    """[batch, length] ids; the labels are the ids (the model shifts them), and nothing is padding."""
    import torch

    ids = torch.stack(list(blocks))
    return {"input_ids": ids, "labels": ids.clone()}


class RecordEncoder:
    """Turns conversations into ids and labels, cut at `length` tokens, and counts what it leaves out.

    Labels are -100 on all but the answers and their ends. A conversation whose answers are all empty or cut
    away teaches nothing (alone in a batch, its loss would be NaN): it is left out and counted.

    Args:
        template: turns conversations into ids; by default BOS + encode(prompt) + encode(output) + EOS.
        train_on_prompt: labels everything but BOS.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        *,
        template: Template = ALPACA,
        train_on_prompt: bool = False,
    ) -> None:
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise MismatchError("the tokenizer has no BOS or no EOS id; tuning needs both, use LLaMA's")
        template.require(tokenizer)
        self.left_out = 0  # records without room for their output
        self.empty_outputs = 0
        self.cut = 0  # records of which something was cut
        self.cut_answers = 0  # answers of which nothing is left, in records that are kept
        self.unanswered = 0  # conversations whose last question has no answer
        self.unread_keys: Counter[str] = Counter()  # records that have it, by key
        self.length = length
        self._tokenizer, self._template = tokenizer, template
        self._unlabelled = {tokenizer.bos_id} if train_on_prompt else None

    def encode(self, conversation: Conversation) -> Item | None:
        """Ids, and begin and end of each answer in them; None if it teaches nothing."""
        if conversation[-1].role == "user":
            self.unanswered += 1
            conversation = conversation[:-1]
        learned = sum(m.role == "assistant" and m.trained and bool(m.content.strip()) for m in conversation)
        if not learned:
            self.empty_outputs += 1
            return None
        length = self.length
        ids, spans = self._template.encode(self._tokenizer, conversation, most=length)
        answers = [(begin, min(end, length)) for begin, end in pairs(spans) if begin < length]
        if not answers:
            self.left_out += 1
            return None
        self.cut += len(ids) > length
        self.cut_answers += learned - len(answers)
        if len(ids) > length:  # a question whose answer is cut away teaches nothing
            ids = ids[: length if self._unlabelled is not None else answers[-1][1]]
        return ids, tuple(at for span in answers for at in span)

    def labels(self, item: Item) -> list[int]:
        """The labels of an encoded conversation."""
        ids, answers = item
        if self._unlabelled is not None:
            return [IGNORED if id in self._unlabelled else id for id in ids]
        labels = [IGNORED] * len(ids)
        for begin, end in pairs(answers):
            labels[begin:end] = ids[begin:end]
        return labels

    def notes(self) -> list[str]:
        """What part of the records is not trained on, one line each."""
        notes = []
        if self.left_out:
            notes.append(
                f"{count(self.left_out, 'record')} left out: the prompt fills the {self.length:,} tokens"
            )
        if self.cut:
            notes.append(
                f"{count(self.cut, 'record')} cut: the output ends beyond the {self.length:,} tokens"
            )
        if self.cut_answers:
            notes.append(f"{count(self.cut_answers, 'later answer')} of these records cut away whole")
        if self.unanswered:
            notes.append(f"{count(self.unanswered, 'last question')} without an answer left out")
        return notes + record_notes(self.empty_outputs, self.unread_keys)


class Records(RecordEncoder):
    """Conversations as ids and labels (`RecordEncoder`); Alpaca's records are those of one question.

    Args:
        inputs: paths, or `Source`s with a weight or field names of their own.
        on_error: "skip" leaves out wrong records and counts them.

    Raises:
        InputError: a record cannot be read or used (the message names file and place).
        TrainingError: no record remains.
    """

    def __init__(
        self,
        inputs: Sequence[Path | Source],
        tokenizer: Tokenizer,
        length: int,
        *,
        template: Template = ALPACA,
        on_error: OnError = "stop",
        train_on_prompt: bool = False,
    ) -> None:
        super().__init__(tokenizer, length, template=template, train_on_prompt=train_on_prompt)
        self.items: list[Item] = []
        readers = [SourceReader(source, on_error) for source in sources_of(inputs)]
        self.files = [file for reader in readers for file in reader.files]
        ends = []
        for reader in readers:
            for conversation, place in reader:
                try:
                    item = self.encode(conversation)
                except InputError as error:  # of the template
                    reader.refuse(InputError(f"{place}: {error}"))
                    continue
                if item is not None:
                    self.items.append(item)
            ends.append(len(self.items))
            self.unread_keys.update(reader.unread_keys)
        self.skipped = sum(reader.skipped for reader in readers)  # wrong records
        for line in [*(note for reader in readers for note in reader.notes()), *self.notes()]:
            warn(line)
        if not self.items:
            raise TrainingError(
                f"{', '.join(map(str, self.files))}: no record with an output, and room for it in {length} "
                "tokens; give more records, or raise sequence_length"
            )
        self._weights = list(zip(ends, (reader.source.weight for reader in readers), strict=True))

    @property
    def is_weighted(self) -> bool:
        """Whether an epoch is another number of records than there are."""
        return any(weight != 1 for _, weight in self._weights)

    def weighted(self, chosen: Sequence[int], seed: int) -> list[int]:
        """The chosen records as often as the weights of their sources say.

        A weight's fraction takes as many of the source's records once more, drawn by `seed`.
        """
        order: list[int] = []
        begin = 0
        for at, (end, weight) in enumerate(self._weights):
            held = [i for i in chosen if begin <= i < end]
            draw = random.Random(f"{seed} {at}")
            order += held * int(weight)
            order += sorted(draw.sample(held, round((weight - int(weight)) * len(held))))
            begin = end
        return order

    def __len__(self) -> int:
        return len(self.items)

    def tokens(self, i: int) -> int:
        """The number of ids of record i."""
        return len(self.items[i][0])

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        """Ids and labels of record i."""
        return self.items[i][0], self.labels(self.items[i])


class PadRecords:
    """Pads records to the longest of a batch: `input_ids`, `attention_mask`, `labels`, [batch, length]."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # The base LLaMA has no pad id. Any id will do: the mask hides it, and its label is -100.
        pad = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
        assert pad is not None  # Records requires an EOS
        self.pad: int = pad

    def __call__(self, records: Sequence[tuple[list[int], list[int]]]) -> Batch:
        import torch

        longest = max(len(ids) for ids, _ in records)

        def stack(rows: Iterator[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])

        return {
            "input_ids": stack((ids for ids, _ in records), self.pad),
            "attention_mask": stack(([1] * len(ids) for ids, _ in records), 0),
            "labels": stack((labels for _, labels in records), IGNORED),
        }


def pairs(flat: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(begin, end) of begin, end, begin, end, ..."""
    return zip(flat[::2], flat[1::2], strict=True)


def record_notes(empty_outputs: int, unread: Counter[str]) -> list[str]:
    """What part of Alpaca records teaches nothing, one line each; `unread` counts records by key."""
    notes = []
    if empty_outputs:
        notes.append(f"{count(empty_outputs, 'record')} left out: the output is empty")
    if unread:
        keys = ", ".join(f"{key} ({records:,})" for key, records in unread.most_common(8))
        notes.append(f"keys that tuning does not read, with their records: {keys}")
    return notes


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that tuning reads, in order; raises as `SourceReader` does."""
    empty = True
    for record, place in open_records(path):
        empty = False
        conversations_of(record, place)
        yield record
    if empty:
        raise no_records([path])


def checked(reader: RecordReader) -> Iterator[dict[str, Any]]:
    """The Alpaca records of a reader, in order.

    Raises:
        InputError: there are none, or one is not an Alpaca record (the message names file and place).
    """
    empty = True
    for record, place in reader:
        empty = False
        yield check(record, place)
    if empty:
        raise no_records([file for file, _ in reader.files])
