"""Corpora for other tools: a Hugging Face dataset, and the `.ds` files of datatrove."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zhuzi._show import Report, count
from zhuzi.corpus.dataset import Corpus, Shard
from zhuzi.errors import MismatchError
from zhuzi.record.output import new_folder
from zhuzi.record.provenance import write_record

if TYPE_CHECKING:
    import pyarrow as pa

#: Tokens per record batch, about: what a reader maps at a time.
BATCH_TOKENS = 1 << 20


@dataclass(frozen=True, repr=False)
class ExportedCorpus(Report):
    """What an export wrote."""

    folder: Path
    rows: int
    """Documents, or blocks."""
    tokens: int
    left_over: int
    """Tokens of the incomplete last block, left out."""

    def _headline(self) -> str:
        return f"{self.folder}: {count(self.rows, 'row')}, {count(self.tokens, 'token')}"


def export_dataset(
    corpus: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    block: int | None = None,
    overwrite: bool = False,
) -> ExportedCorpus:
    """Write a corpus as a Hugging Face dataset that `datasets.load_from_disk` opens without reading it.

    One column, `input_ids`: a row is a document, or with `block` that many tokens of all documents laid end
    to end (an incomplete last block is left out, as `group_texts` does). The ids keep the width they have in
    the shards. Needs pyarrow, not `datasets`; one Arrow file per shard, in bounded memory. `as_arrow` gives
    blocks of a shard without any copy.

    Raises:
        OutputExistsError: `out` holds something, and `overwrite` is not set or Zhuzi did not write it.
        InputError: the corpus is not as its manifest says.
        MismatchError: the tokens do not fill one block.
    """
    import pyarrow as pa

    source = Corpus(Path(corpus))
    if block is not None and block < 1:
        raise ValueError(f"a block holds at least one token, not {block}")
    if block is not None and source.tokens < block:
        raise MismatchError(f"{source.path}: {source.tokens} tokens do not fill one block of {block}")
    kind = pa.from_numpy_dtype(source.shards[0].dtype)
    column = pa.list_(kind) if block is None else pa.list_(kind, block)
    name = str(kind)
    feature: dict[str, Any] = {"feature": {"dtype": name, "_type": "Value"}, "_type": "List"}
    if block is not None:
        feature["length"] = block
    features = {"input_ids": feature}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([pa.field("input_ids", column)], metadata=metadata)
    files, rows = [], 0
    size = source.tokens * source.shards[0].dtype.itemsize
    with new_folder(out, overwrite=overwrite, inputs=[corpus], size=size) as folder:
        write_record(folder, "dataset", tokenizer=source.tokenizer_fingerprint)
        parts = _document_parts(source) if block is None else _block_parts(source, block)
        for number, batches in enumerate(parts):
            files.append(f"data-{number:05}-of-{len(source.shards):05}.arrow")
            with pa.OSFile(str(folder / files[-1]), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for values, ends in batches:
                    flat = pa.array(values)
                    array = (
                        pa.FixedSizeListArray.from_arrays(flat, block)
                        if ends is None
                        else pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), flat)
                    )
                    writer.write_batch(pa.record_batch([array], schema=schema))
                    rows += len(array)
        state: dict[str, Any] = {
            "_data_files": [{"filename": file} for file in files],
            "_fingerprint": source.fingerprint()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
        (folder / "state.json").write_text(json.dumps(state, indent=2))
        (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    tokens = source.tokens if block is None else rows * block
    return ExportedCorpus(Path(out), rows, tokens, source.tokens - tokens)


def export_datatrove(
    corpus: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False
) -> ExportedCorpus:
    """Write a corpus in datatrove's format: per shard a `.ds` file and a `.ds.index` of the documents' ends.

    The `.ds` file is the shard's own file (a hard link where the file system allows it, else a copy); the
    index holds the token at which each document ends, 8 bytes each.

    Raises as `export_dataset` does.
    """
    source = Corpus(Path(corpus))
    with new_folder(out, overwrite=overwrite, inputs=[corpus]) as folder:
        write_record(folder, "datatrove", tokenizer=source.tokenizer_fingerprint)
        for path, shard in _named_shards(source):
            linked = folder / f"{path.name}.ds"
            try:
                os.link(path.with_name(f"{path.name}.bin"), linked)
            except OSError:
                shutil.copyfile(path.with_name(f"{path.name}.bin"), linked)
            shard.ends.astype("<u8").tofile(folder / f"{path.name}.ds.index")
    return ExportedCorpus(Path(out), len(source), source.tokens, 0)


def as_arrow(shard: str | os.PathLike[str], block: int) -> pa.FixedSizeListArray:
    """The tokens of one shard (its path without ending) as Arrow blocks on the mapped file, without a copy.

    An incomplete last block is left out. `datasets.Dataset(pyarrow.table({"input_ids": ...}))` makes a
    dataset of the array.
    """
    import pyarrow as pa

    path = Path(shard)
    opened = Shard(path)
    kind = pa.from_numpy_dtype(opened.dtype)
    rows = opened.tokens // block
    buffer = pa.memory_map(str(path.with_name(f"{path.name}.bin"))).read_buffer()
    flat = pa.Array.from_buffers(kind, rows * block, [None, buffer])
    return pa.FixedSizeListArray.from_arrays(flat, block)


Batches = Iterator[tuple[Any, Any | None]]


def _document_parts(source: Corpus) -> Iterator[Batches]:
    """For each shard, batches of whole documents: their tokens, and where each starts (and the last ends)."""

    def batches(shard: Shard) -> Batches:
        starts = np.concatenate([[0], shard.ends])
        first = 0
        while first < len(shard):
            last = int(np.searchsorted(starts, starts[first] + BATCH_TOKENS, side="right")) - 1
            last = max(last, first + 1)
            begin, end = int(starts[first]), int(starts[last])
            yield shard.data[begin:end], starts[first : last + 1] - begin
            first = last

    return (batches(shard) for shard in source.shards)


def _block_parts(source: Corpus, block: int) -> Iterator[Batches]:
    """For each shard, the blocks that start in it; a block may end in the next shard."""
    rows = max(BATCH_TOKENS // block, 1)

    def batches(begin: int, end: int) -> Batches:
        first, last = -(-begin // block), min(-(-end // block), source.tokens // block)
        for row in range(first, last, rows):
            yield source.slice(row * block, min(row + rows, last) * block), None

    ends = np.cumsum([shard.tokens for shard in source.shards])
    return (
        batches(int(end) - shard.tokens, int(end)) for shard, end in zip(source.shards, ends, strict=True)
    )


def _named_shards(source: Corpus) -> Iterator[tuple[Path, Shard]]:
    manifest = source.manifest()
    return zip((source.path / entry["name"] for entry in manifest["shards"]), source.shards, strict=True)
