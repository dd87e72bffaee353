"""The same corpus on many machines: one Ray task per task of the plan.

Each worker reads its own byte ranges and commits its own shards on the shared file system: neither text nor
tokens pass through Ray's object store. A worker that dies leaves only temporary files, and Ray runs its task
again; what is missing in the end, the driver does itself before it seals the corpus.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack

from zhuzi import _core
from zhuzi.corpus.encode import EncodedCorpus, Progress, claim, encode_corpus
from zhuzi.corpus.options import CorpusKeywords, CorpusOptions, OnError, options_of, skips_bad
from zhuzi.record.place import PathLike
from zhuzi.tokenizer import Tokenizer

#: How often Ray runs a task again whose worker died.
RETRIES = 5


def encode_corpus_on_ray(
    inputs: PathLike | Sequence[PathLike],
    tokenizer: PathLike | Tokenizer,
    out: PathLike,
    *,
    options: CorpusOptions | None = None,
    cores_per_task: int = 1,
    num_threads: int | None = None,
    on_error: OnError = "stop",
    overwrite: bool = False,
    append: bool = False,
    progress: Progress | None = None,
    **keywords: Unpack[CorpusKeywords],
) -> EncodedCorpus:
    """Encode a corpus with the workers of a Ray cluster; the same bytes as `encode_corpus` writes.

    Every machine must see inputs and `out` under the same paths. Uses the cluster that `ray.init` or
    `RAY_ADDRESS` names, else starts one on this machine. Each task takes `cores_per_task` cores of the
    cluster; `num_threads` are those of the driver, for what is left to it. `options` or `keywords` are those
    of `encode_corpus`, but `dedup`, `limit` and standard input need one process and are refused. `progress`
    is told what is committed.

    Raises as `encode_corpus` does; `ModuleNotFoundError` without ray (the extra `ray`).
    """
    options = options_of(encode_corpus_on_ray, keywords, options)
    import ray

    inputs, tokenizer = claim(inputs, tokenizer, out, overwrite=overwrite)
    folder, skip_bad = Path(out).absolute(), skips_bad(on_error)
    report = _core.encode_corpus(
        inputs,
        tokenizer.compiled,
        tokenizer.fingerprint,
        folder,
        options,
        threads=1,
        overwrite=overwrite,
        append=append,
        skip_bad=skip_bad,
        part=None,
        plan_only=True,
        progress=None,
    )
    missing = report["missing"]
    if missing:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        worker = ray.remote(num_cpus=cores_per_task, max_retries=RETRIES)(_run_task)
        model, here = ray.put(tokenizer), Path.cwd()
        # A run of another process on this folder is refused while the workers are busy.
        with _core.CorpusLock(folder):
            stop = folder / f".tmp-stop-{uuid.uuid4().hex}"
            before = _core.corpus_progress(folder)
            running = [worker.remote(here, folder, stop, model, t, cores_per_task, skip_bad) for t in missing]
            try:
                _wait(ray, running, before, progress)
            except BaseException:
                # Tasks that have not begun end at once, others by themselves: what they commit is not lost.
                # `ray.cancel` would do it too, but sometimes kills the driver (Ray 2.60).
                stop.touch()
                raise
    return encode_corpus(
        inputs,
        tokenizer,
        out,
        options=options,
        num_threads=num_threads,
        on_error=on_error,
        append=append,
        progress=progress,
    )


def _run_task(
    here: Path, folder: Path, stop: Path, tokenizer: Tokenizer, task: int, threads: int, skip_bad: bool
) -> tuple[int, int, int]:
    """Run one task in a worker; bytes of the inputs, documents and tokens. Nothing once `stop` exists."""
    if stop.exists():
        return (0, 0, 0)
    os.chdir(here)  # the plan names the inputs as the driver did
    return _core.encode_tasks(
        folder, tokenizer.compiled, tokenizer.fingerprint, [task], threads=threads, skip_bad=skip_bad
    )


def _wait(
    ray: ModuleType, running: Sequence[Any], before: _core._FolderProgress, progress: Progress | None
) -> None:
    """Wait for all tasks; what one of them raises is raised here. `before` is what was committed already."""
    done = (before["bytes"], before["documents"], before["tokens"])
    left = list(running)
    while left:
        ready, left = ray.wait(left, num_returns=1, timeout=1.0)
        for reference in ready:
            try:
                made = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            done = (done[0] + made[0], done[1] + made[1], done[2] + made[2])
        if progress is not None:
            progress(done[0], before["total_bytes"], done[1], done[2])
