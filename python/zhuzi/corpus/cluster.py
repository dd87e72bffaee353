"""The same corpus on many machines: one Ray task a task of the plan.

Each worker reads its own byte ranges and commits its own shards on the shared file system: neither text nor
tokens pass Ray's object store. A worker that dies leaves only temporary files, and Ray runs its task again;
whatever is missing in the end, the driver does itself before it seals the corpus.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from zhuzi import _core
from zhuzi.corpus.encode import (
    EncodedCorpus,
    Paths,
    Progress,
    claim,
    encode_corpus,
    encode_options,
    skips_bad,
)
from zhuzi.tokenizer import Tokenizer

#: How often Ray runs a task again whose worker died.
RETRIES = 5


def encode_corpus_on_ray(
    inputs: Paths,
    tokenizer: str | os.PathLike[str] | Tokenizer,
    out: str | os.PathLike[str],
    *,
    cores_per_task: int = 1,
    num_threads: int | None = None,
    on_error: str = "stop",
    overwrite: bool = False,
    append: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> EncodedCorpus:
    """Encode a corpus with the workers of a Ray cluster; the same bytes as `encode_corpus` gives.

    Inputs and `out` must be seen under the same paths by every machine. Uses the cluster that `ray.init` or
    `RAY_ADDRESS` names, else starts one on this machine. Each task takes `cores_per_task` cores of the
    cluster; `num_threads` are those of the driver, for what is left to it. `settings` are the other arguments
    of `encode_corpus`, but `dedup`, `limit` and standard input need one process and are refused. `progress`
    gets what is committed.

    Raises as `encode_corpus` does; `ModuleNotFoundError` without ray (the extra `ray`).
    """
    import ray

    inputs, tokenizer = claim(inputs, tokenizer, out, overwrite=overwrite)
    folder, skip_bad = Path(out).absolute(), skips_bad(on_error)
    report = _core.encode_corpus(
        inputs,
        tokenizer._core,
        tokenizer.fingerprint,
        folder,
        encode_options(**settings),
        threads=1,
        overwrite=overwrite,
        append=append,
        skip_bad=skip_bad,
        part=None,
        plan_only=True,
        progress=None,
    )
    missing = json.loads(report)["missing"]
    if missing:
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        worker = ray.remote(num_cpus=cores_per_task, max_retries=RETRIES)(_run_task)
        model, here = ray.put(tokenizer), Path.cwd()
        # A run of another process on this folder is refused while ours goes on.
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            stop = folder / f".tmp-stop-{uuid.uuid4().hex}"
            running = [worker.remote(here, folder, stop, model, t, cores_per_task, skip_bad) for t in missing]
            try:
                _wait(ray, running, folder, progress)
            except BaseException:
                # Tasks that have not begun end at once, others by themselves: what they commit is no loss.
                # `ray.cancel` would do it, too, but at times it takes the driver down (Ray 2.60).
                stop.touch()
                raise
    return encode_corpus(
        inputs,
        tokenizer,
        out,
        num_threads=num_threads,
        on_error="skip" if skip_bad else "stop",
        append=append,
        progress=progress,
        **settings,
    )


def _run_task(
    here: Path, folder: Path, stop: Path, tokenizer: Tokenizer, task: int, threads: int, skip_bad: bool
) -> tuple[int, int, int]:
    """Run in a worker: one task; bytes of the inputs, documents and tokens. Nothing once `stop` is there."""
    if stop.exists():
        return (0, 0, 0)
    os.chdir(here)  # the plan names the inputs as the driver did
    _core.encode_tasks(
        folder, tokenizer._core, tokenizer.fingerprint, [task], threads=threads, skip_bad=skip_bad
    )
    return _committed(folder / ".commits" / f"task-{task:05}.json")


def _committed(record: Path) -> tuple[int, int, int]:
    commit = json.loads(record.read_bytes())
    return commit["packed_bytes"], commit["counts"]["documents"], commit["counts"]["tokens"]


def _wait(ray: ModuleType, running: Sequence[Any], folder: Path, progress: Progress | None) -> None:
    """Wait for all tasks; what one of them raises comes out as it was raised there."""
    total = sum(source["bytes"] for source in json.loads((folder / "plan.json").read_bytes())["sources"])
    # What is there already; what comes is told by the workers.
    before = [(0, 0, 0), *map(_committed, (folder / ".commits").glob("*.json"))]
    done = [sum(part) for part in zip(*before, strict=True)]
    left = list(running)
    while left:
        ready, left = ray.wait(left, num_returns=1, timeout=1.0)
        for reference in ready:
            try:
                made = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            done = [a + b for a, b in zip(done, made, strict=True)]
        if progress is not None:
            progress(done[0], total, done[1], done[2])
