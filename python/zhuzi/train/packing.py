"""Several instruction records in one block, without seeing each other: `packing: true`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from zhuzi._show import count
from zhuzi.train.data import IGNORED
from zhuzi.train.progress import tell

if TYPE_CHECKING:
    import torch

#: Blocks that are open for more records at a time: more fill them better, and take longer to search.
_OPEN = 256

#: Ids, labels and positions of a block.
Block = tuple[list[int], list[int], list[int]]


class Examples(Protocol):
    """`zhuzi.train.data.Records`, or some of them."""

    def __len__(self) -> int: ...

    def tokens(self, i: int) -> int: ...

    def __getitem__(self, i: int) -> tuple[list[int], list[int]]: ...


class PackedRecords:
    """Records put into blocks of at most `length` tokens: an item is a block.

    Each record goes, in an order drawn from `seed`, into the first block that has room (first fit). Positions
    restart at 0 with each record: from that, transformers makes a mask that keeps the records apart.
    """

    def __init__(self, records: Examples, length: int, seed: int, batch_size: int) -> None:
        self.records = records
        order = list(range(len(records)))
        random.Random(seed).shuffle(order)
        self.blocks: list[list[int]] = []
        room: list[tuple[list[int], int]] = []
        for i in order:
            size = records.tokens(i)
            at = next((k for k, (_, left) in enumerate(room) if left >= size), None)
            if at is None:
                self.blocks.append([i])
                room.append((self.blocks[-1], length - size))
            else:
                block, left = room[at]
                block.append(i)
                room[at] = block, left - size
            if len(room) > _OPEN:
                room.remove(min(room, key=lambda entry: entry[1]))
        tokens = sum(records.tokens(i) for i in range(len(records)))
        per_step = min(len(records), round(batch_size * len(records) / len(self)))
        tell(
            f"{count(len(records), 'record')} in {count(len(self), 'block')} of {length:,} tokens, "
            f"{tokens / (len(self) * length):.0%} full: about {count(per_step, 'record')} per step"
        )

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, i: int) -> Block:
        """Ids, labels and positions of block i."""
        block: Block = [], [], []
        for record in self.blocks[i]:
            ids, labels = self.records[record]
            # The first token of a record is not to be predicted from the record before it.
            for held, more in zip(block, (ids, [IGNORED, *labels[1:]], range(len(ids))), strict=True):
                held.extend(more)
        return block


class PadBlocks:
    """Pads blocks to the longest of a batch: `input_ids`, `labels`, `position_ids`, [batch, length]."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, blocks: Sequence[Block]) -> dict[str, torch.Tensor]:
        import torch

        longest = max(len(ids) for ids, _, _ in blocks)
        fills = [("input_ids", self.pad), ("labels", IGNORED), ("position_ids", 0)]
        made = {
            name: torch.tensor([held[part] + [fill] * (longest - len(held[part])) for held in blocks])
            for part, (name, fill) in enumerate(fills)
        }
        return {**made, "tokens": torch.tensor(sum(len(ids) for ids, _, _ in blocks))}
