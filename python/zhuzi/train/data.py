"""What the model sees: blocks of a corpus for pre-training, Alpaca records for tuning."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi._show import count
from zhuzi.corpus import read
from zhuzi.corpus.dataset import Corpus
from zhuzi.corpus.read import RecordReader
from zhuzi.errors import InputError, MismatchError, TrainingError
from zhuzi.infer.prompt import format_prompt
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.alpaca import check, unread_keys
from zhuzi.train.progress import tell, warn

IGNORED = -100  # the label that transformers' loss ignores

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


def collate_blocks(blocks: Sequence[torch.Tensor]) -> Batch:
    """[batch, length] ids; the labels are the ids (the model shifts them), and nothing is padding."""
    import torch

    ids = torch.stack(list(blocks))
    return {"input_ids": ids, "labels": ids.clone()}


class Records:
    """Alpaca records as ids and labels: BOS + encode(prompt) + encode(output) + EOS, cut at `length`.

    Prompt and output are encoded separately, as published; labels are -100 on BOS and prompt. A record whose
    output is empty or cut away entirely teaches nothing (alone in a batch, its loss would be NaN): it is left
    out and counted.

    Raises:
        InputError: a record cannot be read or used (the message names file and place).
        TrainingError: no record remains.
    """

    def __init__(self, inputs: Sequence[Path], tokenizer: Tokenizer, length: int) -> None:
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise MismatchError("the tokenizer has no BOS or no EOS id; tuning needs both, use LLaMA's")
        self.items: list[tuple[list[int], int]] = []  # ids, and how many of them are the prompt's
        self.left_out = 0  # records without room for their output
        self.empty_outputs = 0
        self.cut = 0  # records whose output was cut
        self.unread_keys: Counter[str] = Counter()  # records that have it, by key
        reader = open_records(inputs)
        self.files = [Path(file) for file, _ in reader.files]
        for record in checked(reader):
            self._add(record, tokenizer, length)
        for line in [*reader.notes(), *self.notes(length)]:
            warn(line)
        if not self.items:
            raise TrainingError(
                f"{', '.join(map(str, self.files))}: no record with an output, and room for it in {length} "
                "tokens; give more records, or raise sequence_length"
            )

    def _add(self, record: Mapping[str, Any], tokenizer: Tokenizer, length: int) -> None:
        self.unread_keys.update(unread_keys(record))
        if not record["output"].strip():
            self.empty_outputs += 1
            return
        assert tokenizer.bos_id is not None and tokenizer.eos_id is not None
        text = format_prompt(record["instruction"], record.get("input") or "")
        prompt = [tokenizer.bos_id, *tokenizer.encode(text)]
        ids = [*prompt, *tokenizer.encode(record["output"]), tokenizer.eos_id]
        if len(prompt) >= length:
            self.left_out += 1
            return
        self.cut += len(ids) > length
        self.items.append((ids[:length], len(prompt)))

    def notes(self, length: int) -> list[str]:
        """What part of the records is not trained on, one line each."""
        notes = []
        if self.left_out:
            notes.append(f"{count(self.left_out, 'record')} left out: the prompt fills the {length:,} tokens")
        if self.cut:
            notes.append(f"{count(self.cut, 'record')} cut: the output ends beyond the {length:,} tokens")
        return notes + record_notes(self.empty_outputs, self.unread_keys)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        """Ids and labels of record i."""
        ids, prompt = self.items[i]
        return ids, [IGNORED] * prompt + ids[prompt:]


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


def record_notes(empty_outputs: int, unread: Counter[str]) -> list[str]:
    """What part of Alpaca records teaches nothing, one line each; `unread` counts records by key."""
    notes = []
    if empty_outputs:
        notes.append(f"{count(empty_outputs, 'record')} left out: the output is empty")
    if unread:
        keys = ", ".join(f"{key} ({records:,})" for key, records in unread.most_common(8))
        notes.append(f"keys that tuning does not read, with their records: {keys}")
    return notes


def open_records(inputs: Path | Sequence[Path]) -> RecordReader:
    """A reader of files, folders and patterns; its `notes()` tell what it left out.

    It reads JSON Lines and JSON arrays (`.jsonl`, `.ndjson`, `.json`, also compressed), Parquet and Arrow.

    Raises:
        InputError: an input does not exist, or is of a kind that has no records.
    """
    inputs = [inputs] if isinstance(inputs, Path) else inputs
    try:
        return read.read_records(inputs)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; name a file or folder of Alpaca records") from None
    except ValueError as error:
        raise InputError(str(error)) from error


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The Alpaca records of a file, in order; raises as `open_records` and `checked` do."""
    return checked(open_records(path))


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
        files = ", ".join(str(file) for file, _ in reader.files)
        raise InputError(f"{files}: contains no records; want a JSON list of them, or one per line")


def digest_files(files: Sequence[Path]) -> str:
    """sha256 (hex) over the bytes of the files, in order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
