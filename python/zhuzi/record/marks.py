"""The marks by which Zhuzi knows what it wrote.

A folder carries one of the `MARKS`, an HTML file its generator, any other file a record next to it
(`F.zhuzi.json`) with its size and SHA-256. A file without a record, or changed since, is somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from zhuzi._core import __version__
from zhuzi.record.disk import sha256
from zhuzi.record.json_file import object_or_empty, replace_json
from zhuzi.record.provenance import RECORD, stamped

#: Files by which a folder shows that Zhuzi wrote it, each with keys that ours have.
MARKS = {
    RECORD: {"zhuzi"},  # tokenizers, models, adapters, exports
    "run.json": {"format", "recipe", "model", "tokenizer", "data"},  # training runs
    "manifest.json": {"format", "tokenizer", "shards"},  # corpora
    "plan.json": {"format", "config", "sources", "tasks"},  # corpora that are not finished
    "demo.json": {"seed"},
}

#: Names found in folders of ours. A file of any other name was put there by a user.
_NAMES = (
    # Tokenizers, models, adapters
    *("tokenizer.model", "added_tokens.json", "tokenizer_config.json", "tokenizer.json", RECORD),
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "chat_template.jinja", "special_tokens_map.json"),
    # Corpora and their exports
    *("manifest.json", "plan.json", "run.json", "rejects.jsonl", "shard-*", ".commits", ".lock*", ".tmp-*"),
    *("*.arrow", "*.ds", "*.ds.index", "state.json", "dataset_info.json"),
    # Training runs
    *("checkpoints", "model", "adapter", "log.jsonl", "report.json", "*.tmp"),
    *("samples.jsonl", "tensorboard", "trackers.json", "wandb", "swanlab"),
    # The demo
    *("data", "donor.model*", "base-tokenizer", "tokenizer", "corpus", "base", "extended", "recipes"),
    *("stage1", "stage2", "sft", "chinese-llama", "chinese-alpaca", "report.html", "demo.json"),
    *(".*.partial", ".*.old", ".demo.json"),
)

#: The mark of an HTML file, in its first lines.
HTML_MARK = f'<meta name="generator" content="zhuzi {__version__}">'


def is_marked_folder(folder: Path) -> bool:
    """Whether a folder carries a mark."""
    return any(keys <= object_or_empty(folder / name).keys() for name, keys in MARKS.items())


def foreign_name(folder: Path) -> str | None:
    """The first name in a folder that Zhuzi never writes; None if there is no such name.

    A file of a common name (README.md) is ours if the folder's record has its SHA-256.
    """
    recorded = object_or_empty(folder / RECORD).get("files")
    digests = recorded if isinstance(recorded, dict) else {}
    for path in sorted(folder.iterdir()):
        if any(fnmatchcase(path.name, name) for name in _NAMES):
            continue
        if path.is_file() and path.name in digests and digests[path.name] == sha256(path):
            continue
        return path.name
    return None


def is_marked_page(path: Path) -> bool:
    """Whether a file is HTML that says itself that Zhuzi wrote it."""
    if path.suffix.lower() not in {".html", ".htm"}:
        return False
    with path.open("rb") as file:
        return HTML_MARK.rpartition(" ")[0].encode() in file.read(4096)


#: Name of a file -> its size and SHA-256.
Entries = dict[str, dict[str, object]]


class FileRecord:
    """The record next to the file `place`, or next to several whose names begin with its name."""

    def __init__(self, place: Path) -> None:
        self.path = place.with_name(f"{place.name}.{RECORD}")

    def known(self) -> dict[str, list[dict[str, object]]]:
        """Size and SHA-256 that each file of the record may have; empty if it is not a record of Zhuzi's."""
        held = object_or_empty(self.path)
        if not {"format", "kind", "zhuzi", "files"} <= held.keys():
            return {}
        known: dict[str, list[dict[str, object]]] = {}
        for files in (held["files"], held.get("replaces")):
            for name, entry in files.items() if isinstance(files, dict) else ():
                if isinstance(entry, dict):
                    known.setdefault(name, []).append(entry)
        return known

    def holds(self, path: Path) -> bool:
        """Whether the file is unchanged since the record was written."""
        size = path.stat().st_size
        entries = self.known().get(path.name, [])
        digests = [entry.get("sha256") for entry in entries if entry.get("bytes") == size]
        return bool(digests) and sha256(path) in digests

    def write(self, kind: str, files: Entries, replaced: Entries, partial: Path) -> None:
        """Write the record of `files`, through a temporary file in `partial`.

        While files are being `replaced`, the record names both, so that a kill leaves no file unknown.
        """
        facts: dict[str, object] = {"files": files}
        if replaced:
            facts["replaces"] = replaced
        replace_json(self.path, stamped(kind, facts), temporary=partial / self.path.name)


def file_entries(paths: Sequence[Path]) -> Entries:
    """What a record says of files."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
