"""Corpus encoding: text files to training shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhuzi import _core
from zhuzi._output import PathLike, new_folder
from zhuzi.tokenizer import Tokenizer, available_cores
from zhuzi.vocab import one_or_more

#: Input bytes after which a shard ends: 20 GB become some forty shards.
SHARD_BYTES = 512 << 20


@dataclass(frozen=True)
class EncodedCorpus:
    """What `encode_corpus` made (its `manifest.json` says more)."""

    folder: Path
    documents: int
    empty_documents: int
    """Documents without characters, left out."""
    tokens: int
    characters: int
    text_bytes: int
    shards: int


def encode_corpus(
    inputs: PathLike | Sequence[PathLike],
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    field: str = "text",
    eos: bool = True,
    num_threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int, int, int, int], object] | None = None,
) -> EncodedCorpus:
    """Encode jsonl (a document a line, its text in `field`) and txt (a document a line) into Megatron shards.

    Inputs keep the order given; what a folder or pattern holds is taken by path bytes; shard names sort in
    document order. Each document is one sequence, ended by the end-of-sequence id unless `eos` is off. The
    files do not depend on the number of threads. `progress(bytes, total_bytes, documents, tokens)` is called
    a few times a second. `out` appears when everything is written, or not at all.

    Raises `InputError` naming file and line of the first bad record, `OutputExistsError` if `out` holds
    something, `ValueError` where the inputs stand for no document.
    """
    inputs = one_or_more(inputs)
    read = list(inputs)
    if not isinstance(tokenizer, Tokenizer):
        read.append(tokenizer)
        tokenizer = Tokenizer.from_dir(tokenizer)
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, not {shard_bytes}")
    out = Path(out)
    with new_folder(out, overwrite=overwrite, inputs=read) as folder:
        _core.encode_corpus(
            inputs,
            tokenizer._core,
            tokenizer.fingerprint,
            folder,
            field=field,
            eos=eos,
            threads=num_threads if num_threads is not None else available_cores(),
            shard_bytes=shard_bytes,
            progress=progress,
        )
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return EncodedCorpus(
        folder=out,
        documents=manifest["documents"],
        empty_documents=manifest["empty_documents"],
        tokens=manifest["tokens"],
        characters=manifest["characters"],
        text_bytes=manifest["text_bytes"],
        shards=len(manifest["shards"]),
    )
