"""What the tests of the corpus pipeline share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from zhuzi import Corpus


def write_lines(path: Path, texts: list[str]) -> Path:
    """A jsonl file of these texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": 1, "text": t}, ensure_ascii=False) + "\n" for t in texts))
    return path


def read_back(folder: Path) -> list[list[int]]:
    """The documents of a corpus as lists of ids."""
    return [document.tolist() for document in Corpus(folder)]


#: Peak memory of a process itself. Not `ru_maxrss`: a child's begins with what its parent held.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
"""


def run_measured(code: str) -> list[int]:
    """The numbers that `code` prints, in a process of its own in which `peak()` is its peak memory in KB."""
    done = subprocess.run([sys.executable, "-c", PEAK + code], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def shards_and_manifest(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on how a run went."""
    kept = [p for p in folder.iterdir() if p.suffix in {".bin", ".idx"} or p.name in KEPT]
    return {p.name: p.read_bytes() for p in sorted(kept)}


KEPT = {"manifest.json", "plan.json", "rejects.jsonl"}
