"""How many tokens of each id a text becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from zhuzi._process import available_cores
from zhuzi.corpus.read import TextReader
from zhuzi.errors import InputError
from zhuzi.tokenizer import Tokenizer

#: Documents, and about as many characters, that are encoded at a time.
DOCUMENTS = 4096
CHARACTERS = 4 << 20


def count_tokens(
    texts: TextReader,
    tokenizer: Tokenizer,
    *,
    num_threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[int]:
    """For each id of the tokenizer, its tokens in all `texts`.

    `progress(bytes, total_bytes)` is called after each batch of some megabytes.

    Raises `InputError` if there is no text.
    """
    import numpy as np
    from numpy.typing import NDArray

    counts: NDArray[np.int64] = np.zeros(tokenizer.vocab_size, np.int64)
    for batch in _batches(texts):
        ids = tokenizer.encode_batch(batch, num_threads or available_cores()).ids
        counts += np.bincount(ids, minlength=len(counts))
        if progress is not None:
            progress(texts.bytes_read, texts.total_bytes)
    if not counts.any():
        bad = f" ({texts.bad_records:,} records could not be read)" if texts.bad_records else ""
        raise InputError(f"no text to count the pieces in{bad}; name files or folders that hold some")
    counted: list[int] = counts.tolist()
    return counted


def _batches(texts: TextReader) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    while documents := list(islice(texts, DOCUMENTS // 16)):
        batch += documents
        characters += sum(map(len, documents))
        if len(batch) >= DOCUMENTS or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
