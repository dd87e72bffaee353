"""What the model sees: blocks of a corpus for pre-training, Alpaca records for tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError, MismatchError, TrainingError
from zhuzi.prompt import format_prompt
from zhuzi.shards import Corpus
from zhuzi.tokenizer import Tokenizer
from zhuzi.train.progress import tell, warn

IGNORED = -100  # the label transformers' loss leaves out

_WANTED = "want a JSON list of records, or a record on each line"

# torch is imported where a tensor is made: reading and refusing need none, and it takes seconds to load.
if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]


class Blocks:
    """A corpus cut into blocks of `length` tokens: the published `group_texts`.

    All documents are laid end to end (the end-of-sequence id lies between them already) and cut; what is left
    over at the end, less than a block, is dropped. A block is read from the memory map when it is asked for.

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

    Prompt and output are encoded apart, as published; labels are -100 on BOS and prompt. A record whose
    output is cut away whole teaches nothing (its loss would be NaN alone in a batch): it is left out, and
    counted in `left_out`.

    Raises:
        InputError: a line that is no JSON, a record without `instruction` or `output` (file and place named).
        TrainingError: no record is left.
    """

    def __init__(self, files: Sequence[Path], tokenizer: Tokenizer, length: int) -> None:
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise MismatchError("the tokenizer has no BOS or no EOS id; tuning needs both, use LLaMA's")
        self.items: list[tuple[list[int], int]] = []  # ids, and how many of them are prompt
        self.left_out = 0
        for file in files:
            for record in read_records(file):
                prompt = [
                    tokenizer.bos_id,
                    *tokenizer.encode(format_prompt(record["instruction"], record.get("input") or "")),
                ]
                ids = [*prompt, *tokenizer.encode(record["output"]), tokenizer.eos_id][:length]
                if len(ids) > len(prompt):
                    self.items.append((ids, len(prompt)))
                else:
                    self.left_out += 1
        if self.left_out:
            warn(f"{self.left_out:,} records left out: their prompts fill the {length:,} tokens")
        if not self.items:
            raise TrainingError(
                f"{', '.join(map(str, files))}: no record with room for its output in {length} tokens; "
                "give more records, or raise sequence_length"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]:
        """Ids and labels of record i."""
        ids, prompt = self.items[i]
        return ids, [IGNORED] * prompt + ids[prompt:]


class PadRecords:
    """Pads records to the longest of a batch: `input_ids`, `attention_mask`, `labels`, [batch, length]."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # The base LLaMA has no pad id. Any id does: the mask hides it, and its label is -100.
        pad = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
        assert pad is not None  # Records asked for an EOS
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


def read_records(path: Path) -> Iterator[dict[str, str]]:
    """The records of a file: a JSON list, or JSON Lines (a record a line; empty lines are passed over).

    Raises:
        InputError: naming the file and the line (JSON Lines) or the record's number (from 1), or a file
            without records.
    """
    empty = True
    for record, place in _parsed(path):
        empty = False
        yield _record(record, f"{path}, {place}")
    if empty:
        raise InputError(f"{path}: holds no records; {_WANTED}")


def _parsed(path: Path) -> Iterator[tuple[Any, str]]:
    """What a file holds, each with its place in it."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a json or jsonl file of Alpaca records") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from error
    if text.lstrip().startswith("["):
        for number, record in enumerate(_json(text, f"{path}"), 1):
            yield record, f"record {number}"
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _json(line, f"{path}, line {number}"), f"line {number}"


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{place}: no JSON ({error}); {_WANTED}") from error
    except RecursionError:
        raise InputError(f"{place}: JSON nested too deeply; {_WANTED}") from None


def digest_files(files: Sequence[Path]) -> str:
    """sha256 (hex) over the bytes of the files, in order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _record(record: Any, place: str) -> dict[str, str]:
    if not isinstance(record, dict):
        raise InputError(f"{place}: want an object with instruction, input and output")
    for key in ("instruction", "output"):
        if key not in record:
            raise InputError(f"{place}: has no {key!r}; want an object with instruction, input and output")
    for key in ("instruction", "input", "output"):
        text = record.get(key)
        if text is None and key == "input":  # published records have it null, too
            continue
        if not isinstance(text, str):
            raise InputError(f"{place}: {key!r} is no text")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a UTF-16 pair, as \ud83d
            raise InputError(
                f"{place}: {key!r} holds a lone surrogate at character {error.start}; take it out"
            ) from None
    return record
