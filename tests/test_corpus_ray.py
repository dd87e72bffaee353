"""The same corpus through Ray, with two nodes' worth of workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import zhuzi
from corpus_tools import shards_and_manifest, write_lines
from zhuzi.corpus import encode_corpus_on_ray
from zhuzi.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SHARD_BYTES = 1 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def text(chinese_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("text") / "zh.jsonl", chinese_texts * 160)


def kill_a_worker(out: Path, killed: list[int]) -> None:
    """SIGKILL for the first process that is seen writing a shard."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for path in out.glob(".tmp-*-shard-*.bin"):
            pid = int(path.name.split("-shard-")[0].rsplit("-", 1)[1])
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
        time.sleep(0.001)


def test_ray_makes_the_same_corpus(cluster: None, text: Path, merged: Path, tmp_path: Path) -> None:
    zhuzi.encode_corpus([text], merged, tmp_path / "whole", shard_bytes=SHARD_BYTES)
    out = tmp_path / "out"
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(out, killed))
    killer.start()
    told: list[tuple[int, ...]] = []
    made = encode_corpus_on_ray(
        [text], merged, out, shard_bytes=SHARD_BYTES, progress=lambda *at: told.append(at)
    )
    killer.join()
    assert killed, "a worker was killed while it wrote"
    assert made.outcome == "finished" and made.resumed == made.tasks, "the driver only sealed"
    assert told and told[-1][0] == text.stat().st_size
    assert shards_and_manifest(out) == shards_and_manifest(tmp_path / "whole")
    assert not list(out.glob(".tmp-*")), "what the dead worker left is gone"
    assert encode_corpus_on_ray([text], merged, out, shard_bytes=SHARD_BYTES).outcome == "already"


def test_what_a_worker_raises(cluster: None, text: Path, merged: Path, tmp_path: Path) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", ["好"] * 10)
    with bad.open("a") as file:
        file.write("bad\n")
    with pytest.raises(InputError, match=r"bad\.jsonl: line 11 "):
        encode_corpus_on_ray([text, bad], merged, tmp_path / "out", shard_bytes=SHARD_BYTES)
    made = encode_corpus_on_ray(
        [text, bad], merged, tmp_path / "out", shard_bytes=SHARD_BYTES, on_error="skip"
    )
    assert made.bad_records == 1
    for options in ({"dedup": True}, {"limit": 3}):
        with pytest.raises(ValueError, match="a Ray cluster"):
            encode_corpus_on_ray([text], merged, tmp_path / "x", **options)
