"""`EncodedBatch`: the ids of many documents over one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zhuzi import _core


class EncodedBatch(Sequence["NDArray[np.uint32]"]):
    """Ids of many documents over one buffer; `batch[i]` is document `i`, a view without a copy."""

    # numpy is imported when the ids are looked at, not while encoding: the threads of its BLAS spin for some
    # 60 ms after the import, which took a fifth of a second core from the first batch.

    def __init__(self, ids: _core.Buffer, offsets: _core.Buffer) -> None:
        self._ids = ids
        self._offsets = offsets

    @cached_property
    def ids(self) -> NDArray[np.uint32]:
        """All ids, document after document."""
        import numpy as np

        return np.frombuffer(self._ids, dtype=np.uint32)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document starts in `ids`, and where the last one ends: documents + 1 numbers."""
        import numpy as np

        return np.frombuffer(self._offsets, dtype=np.int64)

    def __getstate__(self) -> dict[str, object]:
        return {"ids": self.ids, "offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int or slice, as in Sequence
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[np.uint32]]:
        ends = self.offsets.tolist()
        return (self.ids[a:b] for a, b in pairwise(ends))

    def tolist(self) -> list[list[int]]:
        """The ids as plain lists, one per document."""
        ids, ends = self.ids.tolist(), self.offsets.tolist()
        return [ids[a:b] for a, b in pairwise(ends)]

    def __repr__(self) -> str:
        return f"EncodedBatch({len(self)} documents, {len(self.ids)} ids)"
