"""Records of what the benches measured, and the tables they print.

`benches/results.json` is a list of records. Each has the figures of one table and what is needed to judge and
repeat them: machine, load, commit, date, command, versions. `make_results.py` shows the newest of each kind.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: A row of a table: what it is about, then its figures.
Row = Sequence[str | int | float | None]

PACKAGES = ("sentencepiece", "gigatoken", "kitoken", "tokenizers", "transformers", "datasets")


def markdown(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table in Markdown; figures are shown as they are, with thousands separated."""

    def shown(value: str | int | float | None) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:,}"

    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, memory, system, Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    simd = next((name for flag, name in (("avx512bw", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return ", ".join(
        [
            f"{names[0] if names else platform.machine()}{f' ({simd})' if simd else ''}",
            f"{len(os.sched_getaffinity(0))} cores",
            f"{memory:.0f} GB",
            f"{platform.system()} {platform.release().split('-')[0]}",
            f"Python {platform.python_version()}",
        ]
    )


def commit() -> str:
    """The commit of this tree, with a `+` if what is measured has changed since."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "../rust", "../python", "../Cargo.lock")
    return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """This command with file names instead of paths, at most three of them, and without `--record`."""
    words, files = [], 0
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word in ("--record", "--label"):
            next(arguments, None)
        elif word.startswith("-") or not Path(word).exists():
            words.append(shlex.quote(word))
        else:
            files += 1
            if files <= 3:
                words.append(Path(word).name)
            elif words[-1] != "...":
                words.append("...")
    return " ".join(["python", f"benches/{Path(sys.argv[0]).name}", *words])


class Recorder:
    """Prints tables, and appends them to a file of records if one is given."""

    def __init__(self, bench: str, label: str, file: Path | None, packages: Iterable[str] = PACKAGES) -> None:
        self.file = file
        self.fixed: dict[str, Any] = {
            "bench": bench,
            "label": label,
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "command": command(),
            "machine": machine(),
            "load": round(os.getloadavg()[0], 2),
            "versions": versions(packages),
        }

    def table(self, name: str, title: str, columns: Sequence[str], rows: Sequence[Row], **more: Any) -> None:
        """One table; `more` is what else belongs into its record (rounds, bytes of text, ...)."""
        sys.stdout.write(f"\n{title}\n\n{markdown(columns, rows)}")
        sys.stdout.flush()
        if self.file is None:
            return
        records = json.loads(self.file.read_text("utf-8")) if self.file.exists() else []
        records.append({"table": name, **self.fixed, **more, "columns": columns, "rows": rows})
        save(records, self.file)


def save(records: list[dict[str, Any]], file: Path) -> None:
    """Writes the records, one row of a table per line."""
    text = []
    for record in records:
        rows = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in record["rows"])
        keys = [
            f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}"
            for k, v in record.items()
            if k != "rows"
        ]
        text.append("{\n" + ",\n".join([*keys, f'  "rows": [\n    {rows}\n  ]']) + "\n}")
    file.write_text("[\n" + ",\n".join(text) + "\n]\n", "utf-8")
