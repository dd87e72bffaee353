"""What can go wrong, by meaning. Each message says what is wrong, where, and what mends it.

`ZhuziError` is the common base; the command line turns any of them into one line and exit code 1. Plain
input/output failures stay `OSError`, wrong arguments `ValueError`.
"""

from __future__ import annotations

from zhuzi._core import InputError, ModelFileError, OutputExistsError, ZhuziError


class MismatchError(ZhuziError):
    """Base model, tokenizer, corpus or adapter do not belong together."""


class RecipeError(ZhuziError):
    """A recipe holds an unknown key or a value that cannot be."""


class TrainingError(ZhuziError):
    """Training cannot start or go on (a loss that is no number, nothing to learn from)."""


class TrainingInterrupted(ZhuziError):  # noqa: N818  # not an error
    """A signal stopped training after a checkpoint; the same command resumes from it. Exit code 75."""


class VocabSizeError(ZhuziError):
    """The text gives no vocabulary of the size asked for; `limit` is the size it can give, if known."""

    def __init__(self, message: str, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


__all__ = [
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
