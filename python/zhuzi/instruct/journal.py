"""What was asked and answered, on the disk before it is used: a killed collection goes on from here.

A folder beside the output holds it: `collection.json` says what is collected, `answers` has one line of JSON
for each call that was sent, and one for each that was answered or refused. Lines are only appended. The line
of an answer is flushed to the disk before the answer counts; a line that a kill cut is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi.errors import OVERWRITE, InputError, OutputExistsError, naming
from zhuzi.record.disk import naming_full_disk
from zhuzi.record.json_file import read_state, replace_json
from zhuzi.record.provenance import stamped

_ABOUT, _ANSWERS = "collection.json", "answers"
_KIND = "instruct"
_OURS = {_ABOUT, f".{_ABOUT}", _ANSWERS, ".lock"}


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    call: int
    text: str = ""
    cut: bool = False
    prompt_tokens: int = 0
    answer_tokens: int = 0
    estimated: bool = False
    refused: str | None = None
    """Why the endpoint refused the prompt; such a call is not asked again."""

    def line(self) -> dict[str, Any]:
        """The outcome as a line of the journal."""
        if self.refused is not None:
            return {"call": self.call, "refused": self.refused}
        tokens = [self.prompt_tokens, self.answer_tokens]
        return {
            "call": self.call,
            "tokens": tokens,
            "estimated": self.estimated,
            "cut": self.cut,
            "answer": self.text,
        }


def folder_of(out: Path) -> Path:
    """Where the journal of an output is: hidden, so that no reader of the folder takes it for records."""
    return out.with_name(f".{out.name}.answers")


def claim(folder: Path, about: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder of a collection, or check that it holds the same one.

    Raises:
        OutputExistsError: it holds another collection, unless `overwrite` discards that, or is not Zhuzi's.
    """
    if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        if foreign := sorted(path.name for path in folder.iterdir() if path.name not in _OURS):
            raise OutputExistsError(
                f"{folder}: holds {foreign[0]}, which zhuzi did not write; move it elsewhere"
            )
        # Killed before its first line, it holds nothing that would be lost.
        held = read_state(folder / _ABOUT) if (folder / _ABOUT).exists() else None
        if held is None and (folder / _ANSWERS).exists():
            raise OutputExistsError(f"{folder}: has no {_ABOUT}; remove the folder yourself")
        if held is not None:
            if held.get("kind") != _KIND:
                raise OutputExistsError(f"{folder / _ABOUT}: was not written by zhuzi; choose another output")
            changed = sorted(key for key in about if held.get(key) != about[key])
            if not changed:
                return
            if not overwrite:
                raise naming(
                    OutputExistsError,
                    f"{folder}: holds answers of another collection ({', '.join(changed)} differ); give what "
                    "it was begun with to go on with it, choose another output, or discard them with ",
                    OVERWRITE,
                )
            (folder / _ABOUT).unlink()
            (folder / _ANSWERS).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / _ABOUT, stamped(_KIND, about))


def remove_empty(folder: Path) -> None:
    """Remove the folder of a collection, which must be claimed, if it holds no outcome."""
    if not holds_outcomes(folder):
        shutil.rmtree(folder, ignore_errors=True)


def holds_outcomes(folder: Path) -> bool:
    """Whether a call was answered or refused before."""
    try:
        with (folder / _ANSWERS).open("rb") as file:
            return any(b'"sent": true' not in line for line in file)
    except FileNotFoundError:
        return False


class Journal:
    """The lines of a collection; `append` may be called by many threads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _ANSWERS
        self.ended: set[int] = set()
        """Calls that have an outcome."""
        self.sent = 0
        """How often a call was sent; more often than calls ended where a process was killed meanwhile."""
        self._lock = threading.Lock()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._repair()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _repair(self) -> None:
        """Remove the last line if a kill left it incomplete."""
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
        if end != self.path.stat().st_size:
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes in the order in which they came; counts `sent` and `ended`.

        Raises:
            InputError: a line that this program did not write.
        """
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    held = json.loads(line)
                    call = int(held["call"])
                    if held.get("sent"):
                        self.sent += 1
                        continue
                    outcome = _outcome(call, held)
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise InputError(
                        f"{self.path}: line {number} is damaged; take the line out to ask that call again, "
                        "or choose another output"
                    ) from None
                if call not in self.ended:
                    self.ended.add(call)
                    yield outcome

    def send(self, call: int) -> None:
        """Note that a call is being sent."""
        self._append({"call": call, "sent": True}, flush=False)

    def end(self, outcome: Outcome) -> None:
        """Keep an outcome; it is on the disk when this returns."""
        self._append(outcome.line(), flush=True)

    def _append(self, held: dict[str, Any], *, flush: bool) -> None:
        data = json.dumps(held, ensure_ascii=False).encode() + b"\n"
        with self._lock, naming_full_disk(self.path, wanted=len(data)):
            end = os.fstat(self._fd).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._fd, data[written:])
                if flush:
                    os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, end)  # no half line for the next one to follow
                raise


def _outcome(call: int, held: dict[str, Any]) -> Outcome:
    if "refused" in held:
        return Outcome(call, refused=str(held["refused"]))
    given, made = held["tokens"]
    if not isinstance(held["answer"], str):
        raise TypeError
    return Outcome(
        call,
        text=held["answer"],
        cut=bool(held["cut"]),
        prompt_tokens=int(given),
        answer_tokens=int(made),
        estimated=bool(held["estimated"]),
    )
