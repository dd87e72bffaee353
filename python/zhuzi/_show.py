"""How results are shown: a line in a console, a table in a notebook, counts with the right plural."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Mapping, Sequence


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 shard", "2,000 shards", "3 entries" (`plural` where it is not noun + s)."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def some(names: Sequence[str]) -> str:
    """The first few of several names, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4:,} more"


class Report:
    """What a function made or found: `repr` gives the main figure, a notebook shows all of them as a table.

    Dataclasses that inherit it are declared with `repr=False`.
    """

    def _headline(self) -> str:
        """The main figure, on one line."""
        raise NotImplementedError

    def _rows(self) -> Iterable[tuple[str, object]]:
        """Names and values of the table."""
        if not dataclasses.is_dataclass(self):
            raise NotImplementedError
        return [
            (field.name.replace("_", " "), getattr(self, field.name)) for field in dataclasses.fields(self)
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._headline()})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(_shown(value))}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table><caption>{html.escape(repr(self))}</caption>{rows}</table>"


#: Entries of a list that a table shows.
_ENTRIES = 8


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _listed([f"{_shown(key)}: {_shown(held)}" for key, held in value.items()])
    if isinstance(value, list | tuple | set | frozenset):
        return _listed([_shown(held) for held in value])
    return str(value)


def _listed(shown: list[str]) -> str:
    more = len(shown) - _ENTRIES
    return ", ".join(shown[:_ENTRIES]) + (f", and {more:,} more" if more > 0 else "")
