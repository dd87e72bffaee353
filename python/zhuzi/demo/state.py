"""The demo's folder: its settings, the finished steps, and their figures.

OUT/demo.json   the settings, and the figures of finished steps; replaced as a whole after each step
OUT/.lock       held (flock) by the process that runs the demo

What a killed step left is removed before the step is repeated, except training runs and the corpus, which
resume by themselves. A demo whose last step is done is finished, and nothing in it is touched.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi import __version__
from zhuzi.errors import OUT, OVERWRITE, OutputExistsError, naming
from zhuzi.record.json_file import read_state, replace_json
from zhuzi.record.lock import locked
from zhuzi.record.output import new_folder
from zhuzi.record.place import require_free

#: The step that ends a demo.
LAST = "report"

#: What the steps put into the folder through `zhuzi.record.output`, which works in hidden folders beside it.
MADE = (
    *("base-tokenizer", "tokenizer", "base", "extended"),
    *("stage1", "stage2", "sft", "chinese-llama", "chinese-alpaca"),
)
_LEFT_OVER = re.compile(rf"\.({'|'.join(map(re.escape, MADE))})\.[a-z0-9_]{{8}}\.(partial|old)")


@dataclass(frozen=True)
class State:
    """A demo's folder, held by this process, and its figures so far."""

    out: Path
    facts: dict[str, Any]

    @property
    def done(self) -> list[str]:
        """Names of the finished steps, in order."""
        return list(self.facts["steps"])

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return LAST in self.facts["steps"]

    @contextmanager
    def step(self, name: str, makes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the figures, to which the step adds its own; they are saved if the block succeeds.

        `makes` are the files and folders that the step cannot resume.
        """
        for made in makes:
            _remove(self.out / made)
        began = time.monotonic()
        yield self.facts
        self.facts["steps"][name] = time.monotonic() - began
        self.facts["seconds"] = sum(self.facts["steps"].values())
        replace_json(self.out / "demo.json", self.facts)


@contextmanager
def open_state(
    out: Path, settings: Mapping[str, Any], *, overwrite: bool, inputs: Sequence[str | Path]
) -> Iterator[State]:
    """Hold the folder `out` during the block: a new demo, or one with the same settings to resume.

    Raises:
        OutputExistsError: it contains something else, or a demo with other settings (the message names the
            first that differs), or another process runs a demo there.
    """
    settings = {"zhuzi": __version__, **settings}
    known = _is_demo(out)
    with ExitStack() as held:
        if known:
            held.enter_context(locked(out, "runs a demo"))
        if known and not overwrite:
            facts = read_state(out / "demo.json")
            _require_same(out, facts.get("settings", {}), settings)
            if LAST not in facts["steps"]:
                _remove_left_over(out)
        else:
            facts = {"seed": settings["seed"], "settings": settings, "steps": {}, "seconds": 0.0}
            with new_folder(out, overwrite=overwrite, inputs=inputs) as made:
                held.enter_context(locked(made, "runs a demo"))
                replace_json(made / "demo.json", facts)
        yield State(out, facts)


def require_usable(out: Path, *, overwrite: bool, inputs: Sequence[str | Path]) -> bool:
    """Whether `out` has a demo to resume; `OutputExistsError` if it has not and cannot take a new one.

    No input is read, so that an unusable folder is refused at once.
    """
    known = _is_demo(out)
    if overwrite or not known:
        require_free(out, overwrite=overwrite, inputs=inputs)
    return known and not overwrite


def _is_demo(out: Path) -> bool:
    return (out / "demo.json").is_file()


def _require_same(out: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    key = next((key for key in {**now, **there} if there.get(key) != now.get(key)), None)
    if key is None:
        return
    shown = isinstance(now.get(key), int) or key == "zhuzi"  # else a checksum, or many figures
    values = f" ({there.get(key, 'none')} there, {now.get(key)} now)" if shown else ""
    differs = f"{out}: holds a demo whose {key.replace('_', ' ')} differs{values}; give the same again, "
    raise naming(OutputExistsError, differs, "choose another ", OUT, ", or start again with ", OVERWRITE)


def _remove_left_over(out: Path) -> None:
    """Remove what a killed step was writing. Links and other hidden names, such as .git, are the user's."""
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink() and _LEFT_OVER.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it exists; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
