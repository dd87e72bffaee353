"""Ids in the forms Python users have them (lists, arrays, tensors, columns), as lists of int."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def one_sequence(ids: Any) -> list[int]:
    """The ids of one text: a list, tuple, range, generator, or anything of one dimension with `tolist`.

    Raises `TypeError` for anything but a sequence.
    """
    plain = _plain(ids)
    if not isinstance(plain, list):
        raise TypeError(f"decode wants a sequence of ids, not {type(ids).__name__}; for one id give [id]")
    if plain and _is_sequence(plain[0]):
        raise TypeError("decode wants the ids of one text; for those of several there is decode_batch")
    return plain


def many_sequences(batch: Any) -> list[list[int]]:
    """The ids of many texts: sequences as `one_sequence` takes them, or anything of two dimensions."""
    plain = _plain(batch)
    if not isinstance(plain, list):
        raise TypeError(f"decode_batch wants sequences of ids, not {type(batch).__name__}")
    if plain and not _is_sequence(plain[0]):
        raise TypeError("decode_batch wants the ids of several texts; for those of one there is decode")
    return [one_sequence(ids) for ids in plain]


def why_refused(ids: Iterable[Any], vocab_size: int, where: str = "") -> Exception | None:
    """The error for the first id that is not an integer or outside the vocabulary; None if all are valid."""
    for at, id in enumerate(ids):
        try:
            number = id.__index__()
        except (AttributeError, TypeError):
            return TypeError(f"{where}ids[{at}] must be an integer, not {id!r}")
        if not 0 <= number < vocab_size:
            fix = "; -100 marks labels without loss: leave them out" if number == -100 else ""
            return IndexError(
                f"{where}ids[{at}] is {number}, outside the vocabulary of {vocab_size} ids{fix}"
            )
    return None


def _plain(ids: Any) -> Any:
    """Lists instead of arrays, tensors, columns and generators; numbers stay as they are."""
    if isinstance(ids, list):
        return ids
    if isinstance(ids, str | bytes | Mapping):
        return None
    for name in ("tolist", "to_pylist", "to_list"):  # numpy, torch, pandas; pyarrow; polars
        convert = getattr(ids, name, None)
        if callable(convert):
            return convert()
    return list(ids) if isinstance(ids, Iterable) else None


def _is_sequence(value: Any) -> bool:
    """Whether a value is a sequence of ids. A tensor or array without dimensions is a number."""
    if isinstance(value, str | bytes):
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0
