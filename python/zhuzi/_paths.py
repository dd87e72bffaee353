"""Paths as people write them: `~`, `~user`, `$VAR` and `${VAR}` mean the same in recipes and commands.

A shell leaves some of them unexpanded (`--out=~/run`, a path in quotes), and no shell sees a line of YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def expand(path: str | os.PathLike[str]) -> Path:
    """`path` with its variables expanded. A path that exists as written wins: a name may contain `~` or `$`.

    Raises:
        ValueError: a variable that is not set, or an unknown user.
    """
    return Path(expand_text(os.fspath(path)))


def expand_text(text: str) -> str:
    """As `expand`, for text that may not be a path (a hub id): unchanged if there is nothing to expand."""
    if not (text.startswith("~") or "$" in text) or os.path.lexists(text):
        return text
    if text.startswith("~"):
        user = text.partition("/")[0]
        home = os.path.expanduser(user)  # noqa: PTH111  # Path's own raises without naming the user
        if home == user:
            raise ValueError(f"{text}: no user {user[1:]!r}; write ./{text} for a path of that name")
        text = home + text[len(user) :]
    return _VARIABLE.sub(lambda found: _value(found[1] or found[2], text), text)


def _value(name: str, text: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"{text}: the variable {name} is not set; set it, or write the path out")
    return value


def one_or_more(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Sequence[str | os.PathLike[str]]:
    """Several paths as they are; a single path as a list of one."""
    return [paths] if isinstance(paths, str | os.PathLike) else paths
