"""Paths as people write them: `~`, `~user`, `$VAR` and `${VAR}` mean the same in recipes and commands.

A shell leaves some of them as they are (`--out=~/run`, a path in quotes), and no shell sees a line of YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def expand(path: str | os.PathLike[str]) -> Path:
    """The path that `path` means. One that exists as it is written wins: a name may hold `~` or `$`.

    Raises:
        ValueError: a variable that is not set, or a user that is not known.
    """
    return Path(expand_text(os.fspath(path)))


def expand_text(text: str) -> str:
    """As `expand`, for what may be something else (a hub id): unchanged where nothing is to be expanded."""
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
    """A path alone as a list of one."""
    return [paths] if isinstance(paths, str | os.PathLike) else paths
