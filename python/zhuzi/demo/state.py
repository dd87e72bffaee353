"""The demo's folder: what the demo was asked for, which steps are done, and what they found.

OUT/demo.json   the settings, first; then the figures of each finished step, written whole after each
OUT/.lock       held (flock) by the process that works there

What a killed step left is removed before the step is done again, but for training runs and the corpus, which
go on by themselves. A demo whose last step is done is finished.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi import __version__
from zhuzi._disk import fsync
from zhuzi._output import new_folder, require_free
from zhuzi.errors import OutputExistsError

#: The step that ends a demo.
LAST = "report"


@dataclass(frozen=True)
class State:
    """A demo's folder, held by this process, and its figures so far."""

    out: Path
    facts: dict[str, Any]

    @property
    def done(self) -> list[str]:
        """Names of the finished steps, in their order."""
        return list(self.facts["steps"])

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return LAST in self.facts["steps"]

    @contextmanager
    def step(self, name: str, makes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the figures for a step to add its own to; they are kept when the block ends well.

        `makes` are the files and folders of the step that cannot be gone on with.
        """
        for path in (self.out / made for made in makes):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        began = time.monotonic()
        yield self.facts
        self.facts["steps"][name] = time.monotonic() - began
        self.facts["seconds"] = sum(self.facts["steps"].values())
        _write(self.out, self.facts)


@contextmanager
def open_state(
    out: Path, settings: Mapping[str, Any], *, overwrite: bool, inputs: Sequence[str | Path]
) -> Iterator[State]:
    """Hold the folder `out` for the block, new or with what a demo of these very settings has done in it.

    Raises:
        OutputExistsError: it holds something else, or a demo of other settings (the first that differs is
            named), or another process works there.
    """
    settings = {"zhuzi": __version__, **settings}
    known = _is_demo(out)
    with ExitStack() as held:
        if known:
            held.enter_context(_locked(out))
        if known and not overwrite:
            facts = _read(out)
            _require_same(out, facts.get("settings", {}), settings)
            for left in out.glob(".*"):  # what a killed step was writing
                if left.name != ".lock":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        else:
            facts = {"seed": settings["seed"], "settings": settings, "steps": {}, "seconds": 0.0}
            with new_folder(out, overwrite=overwrite, inputs=inputs) as made:
                held.enter_context(_locked(made))
                _write(made, facts)
        yield State(out, facts)


def require_usable(out: Path, *, overwrite: bool, inputs: Sequence[str | Path]) -> bool:
    """Whether `out` holds a demo to go on with; `OutputExistsError` where neither that nor a new one can be.

    Looks at no input, so that an output that cannot be is refused at once.
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
    raise OutputExistsError(
        f"{out}: holds a demo whose {key.replace('_', ' ')} differs{values}; give the same again, choose "
        "another --out, or start anew with --overwrite"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold FOLDER/.lock. The system lets go of it when the process ends, however it ends."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExistsError(
                f"{folder}: another process runs a demo there; wait for it, or choose another --out"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _read(out: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads((out / "demo.json").read_bytes())
        return read
    except ValueError:
        raise OutputExistsError(
            f"{out / 'demo.json'}: damaged; choose another --out, or start anew with --overwrite"
        ) from None


def _write(out: Path, facts: Mapping[str, Any]) -> None:
    temporary = out / ".demo.json"
    temporary.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
    fsync(temporary)
    temporary.replace(out / "demo.json")
