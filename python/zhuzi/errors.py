"""What can go wrong, by kind. Each message says what is wrong, where, and what to do about it.

`ZhuziError` is the common base; the command line turns any of them into one line and exit code 1. Plain
input/output failures stay `OSError`, wrong arguments `ValueError`.

A message that names an option is raised with `naming`: Python callers read `overwrite=True`, and the command
line prints `--overwrite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from zhuzi._core import InputError, ModelFileError, OutputExistsError, ZhuziError

#: An option that a message names: its keyword, and the value that is meant (`None` if none in particular).
Setting = tuple[str, bool | int | str | None]

#: A part of a message: text, or an option that it names.
Part = str | Setting

#: The options that messages name in more than one place.
OVERWRITE: Setting = ("overwrite", True)
OUT: Setting = ("out", None)

_Error = TypeVar("_Error", bound=Exception)


class EndpointError(ZhuziError):
    """An endpoint of a model that cannot be reached, refuses, or speaks another protocol."""


class MismatchError(ZhuziError):
    """Base model, tokenizer, corpus or adapter do not belong together."""


class RecipeError(ZhuziError):
    """A recipe holds an unknown key or an invalid value."""


class TrainingError(ZhuziError):
    """Training cannot start or continue (a loss that is no number, nothing to learn from)."""


class TrainingInterrupted(ZhuziError):  # noqa: N818  # not an error
    """A signal stopped training after a checkpoint; the same command resumes from it. Exit code 75."""


class VocabSizeError(ZhuziError):
    """The text gives no vocabulary of the size asked for; `limit` is the size it can give, if known."""

    def __init__(self, message: str, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


def naming(kind: Callable[[str], _Error], *parts: Part) -> _Error:
    """An error of `kind` whose message names options: `naming(ValueError, "already there; use ", OVERWRITE)`.

    Its text names them as keywords. The parts are kept in its attribute `parts`, as they are in errors of
    the core, so that the command line can name flags instead (`message`).
    """
    error = kind("".join(part if isinstance(part, str) else keyword(*part) for part in parts))
    error.__dict__["parts"] = parts
    return error


def keyword(name: str, value: bool | int | str | None) -> str:
    """An option as a Python caller writes it: `overwrite=True`, `vocab_size=400`, `` `out` ``."""
    if value is None:
        return f"`{name}`"
    return f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"


def message(error: BaseException, option: Callable[[str, bool | int | str | None], str] = keyword) -> str:
    """The text of `error`, with the options that it names written by `option`."""
    parts: tuple[Part, ...] | None = getattr(error, "parts", None)
    if parts is None:
        return str(error)
    return "".join(part if isinstance(part, str) else option(*part) for part in parts)


__all__ = [
    "EndpointError",
    "InputError",
    "MismatchError",
    "ModelFileError",
    "OutputExistsError",
    "RecipeError",
    "TrainingError",
    "TrainingInterrupted",
    "VocabSizeError",
    "ZhuziError",
]
