"""Where a folder comes from: its records, followed back to the first base."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zhuzi.corpus.dataset import MANIFEST, Corpus
from zhuzi.errors import ZhuziError
from zhuzi.model import weights
from zhuzi.model.folder import ADAPTER_FILES
from zhuzi.record.disk import digest_of_files, sha256
from zhuzi.record.json_file import object_or_empty
from zhuzi.record.provenance import read_record
from zhuzi.record.remembered import remembered
from zhuzi.tokenizer import Tokenizer

#: Folders that one record may lead to: a record that names itself would be followed for ever.
_LONGEST = 32


@dataclass(frozen=True)
class Link:
    """What a folder was made from, as its record names it: a base, an adapter, a corpus, a tokenizer."""

    path: str  # as recorded
    found: str | None  # where it is now; None if it is not there
    kind: str  # "extended model", "trained model", "merged model", "adapter", "model" without a record,
    # "corpus", "instructions", "tokenizer"; "not there"
    zhuzi: str | None  # the version that wrote it; of a corpus, the first that writes the same bytes
    made_with: Mapping[str, Any]  # what else its record says: recipe, seed, template, versions
    rows: int | None
    tokenizer: str | None  # its fingerprint, as recorded
    fingerprint: str | None  # as recorded by the folder that was made from it
    same: bool | None  # whether what is there has this fingerprint; None if that was not looked at
    of: str | None = None  # the folder whose record names it


def chain(folder: Path, record: Mapping[str, Any] | None, *, verify: bool) -> Iterator[Link]:
    """What a folder was made from, and that from, back to the first base or to what is not there any more.

    With `verify` the weights of each folder that is there are read and compared with the fingerprint that the
    record has.
    """
    here, seen = folder, {os.path.realpath(folder)}
    for _ in range(_LONGEST):
        base = parent_of(record)
        if base is None:
            return
        found = find(str(base.get("path")), here)
        for link in parts(record, here, verify=verify):
            yield replace(link, of=link.of or str(here))
        theirs = None
        if found is not None and os.path.realpath(found) not in seen:
            theirs = _record(found)
        yield replace(_link(base, found, theirs, verify=verify), of=str(here))
        if found is None or os.path.realpath(found) in seen:
            return
        seen.add(os.path.realpath(found))
        here, record = found, theirs


def parent_of(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a record says that its folder was made from: path, fingerprint, rows; none if it says nothing."""
    for key in ("base", "source", "converted"):
        held = (record or {}).get(key)
        if isinstance(held, Mapping) and isinstance(held.get("path"), str):
            return held
    return None


def find(path: str, beside: Path) -> Path | None:
    """Where a recorded path leads: from the current folder, or from one above the folder with the record.

    Records have paths as they were given, most often relative to the folder where the command ran.
    """
    places = [Path(path)]
    if not Path(path).is_absolute():
        places += [above / path for above in Path(os.path.realpath(beside)).parents]
    return next((place for place in places if place.is_dir()), None)


def parts(record: Mapping[str, Any] | None, here: Path, *, verify: bool) -> Iterator[Link]:
    """What else than its base a record names: adapters that were merged, data, a new tokenizer."""
    yield from _adapters(record, here, verify=verify)
    sources = (record or {}).get("trained_on")
    for source in sources if isinstance(sources, list) else ():
        if isinstance(source, Mapping):
            yield _data(source, here, verify=verify)
    path, digest = (record or {}).get("tokenizer_path"), (record or {}).get("tokenizer")
    if isinstance(path, str):
        found = find(path, here)
        theirs = None if found is None else _record(found)
        link = _link({"path": path}, found, {"kind": "tokenizer", **(theirs or {})}, verify=False)
        same = None
        if verify and found is not None:
            same = _same(lambda: Tokenizer.from_dir(found).fingerprint, digest)
        yield replace(link, tokenizer=None, fingerprint=_text(digest), same=same)


def _data(source: Mapping[str, Any], here: Path, *, verify: bool) -> Link:
    """A corpus or instructions that a run was trained on."""
    digest = source.get("fingerprint")
    told = {key: value for key, value in source.items() if key not in ("path", "fingerprint", "tokenizer")}
    if not isinstance(source.get("path"), str):
        files = source.get("files")
        held = [_file(str(file), here) for file in files] if isinstance(files, list) else []
        there = [file for file in held if file is not None]
        path = str(files[0]) if isinstance(files, list) and files else "?"
        same = None
        if there and len(there) == len(held) and verify:
            same = _same(lambda: digest_of_files(there), digest)
        found = str(there[0]) if there and len(there) == len(held) else None
        return Link(path, found, "instructions", None, told, None, None, _text(digest), same)
    folder = find(source["path"], here)
    same, version = None, None
    if folder is not None:
        version = _text(object_or_empty(folder / MANIFEST).get("version"))
        same = _same(lambda: Corpus(folder).fingerprint(), digest) if verify else None
    tokenizer = _text(source.get("tokenizer"))
    found = None if folder is None else str(folder)
    return Link(source["path"], found, "corpus", version, told, None, tokenizer, _text(digest), same)


def _file(path: str, beside: Path) -> Path | None:
    places = [Path(path), *(above / path for above in Path(os.path.realpath(beside)).parents)]
    return next((place for place in places if place.is_file()), None)


def _same(fingerprint: Callable[[], str], recorded: object) -> bool:
    """Whether what is there has the recorded fingerprint; what cannot be read has another."""
    try:
        return fingerprint() == recorded
    except (ZhuziError, OSError):
        return False


def merged_adapters(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a record tells of the adapters that one command merged, in order; earlier ones name one only."""
    listed = record.get("adapters")
    entries = listed if isinstance(listed, list) else [{"path": record.get("adapter")}]
    return [entry for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("path"), str)]


def _adapters(record: Mapping[str, Any] | None, here: Path, *, verify: bool) -> Iterator[Link]:
    """The adapters that were merged into a model, in order, each with the data it was trained on."""
    for entry in merged_adapters(record or {}):
        path = entry["path"]
        found = find(path, here)
        theirs = None if found is None else _record(found)
        link = _link({"path": path}, found, {"kind": "adapter", **(theirs or {})}, verify=False)
        digest = _text(entry.get("sha256"))
        same = None
        if verify and digest is not None and found is not None:
            weights_file = found / ADAPTER_FILES[1]
            same = weights_file.is_file() and sha256(weights_file) == digest
        yield replace(link, fingerprint=digest, same=same)
        if found is not None:
            for part in parts(theirs, found, verify=verify):
                yield replace(part, of=part.of or str(found))


def _link(
    base: Mapping[str, Any], found: Path | None, theirs: Mapping[str, Any] | None, *, verify: bool
) -> Link:
    fingerprint = _text(base.get("fingerprint"))
    same = None
    if verify and found is not None and fingerprint is not None:
        same = _fingerprint(found) == fingerprint
    is_adapter = found is not None and (found / ADAPTER_FILES[0]).is_file()
    kind = _text((theirs or {}).get("kind")) or ("adapter" if is_adapter else "model")
    rows = base.get("rows")
    return Link(
        path=str(base.get("path")),
        found=None if found is None else str(found),
        kind=kind if found is not None else "not there",
        zhuzi=_text((theirs or {}).get("zhuzi")),
        made_with=made_with(theirs),
        rows=rows if isinstance(rows, int) else None,
        tokenizer=_text((theirs or {}).get("tokenizer")),
        fingerprint=fingerprint,
        same=same,
    )


def made_with(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a record says of the making: all but what it was made from and how it is recognised."""
    known = {"format", "kind", "zhuzi", "rows", "ids", "tokenizer", "original_rows", "files", "fingerprint"}
    known |= {"adapter", "adapters", "trained_on", "tokenizer_path"}  # links of their own
    return {
        key: value
        for key, value in (record or {}).items()
        if key not in known and not (key in ("base", "source", "converted") and isinstance(value, Mapping))
    }


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return read_record(folder)
    except ZhuziError:
        return None


def _fingerprint(folder: Path) -> str | None:
    try:
        tensors = weights.read_headers(folder)
    except (ZhuziError, OSError):
        return None
    return remembered({info.file for info in tensors.values()}, lambda: weights.fingerprint(tensors))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
