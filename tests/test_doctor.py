"""What `zhuzi doctor` finds, on machines that lack something."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zhuzi import doctor
from zhuzi.cli import cli
from zhuzi.doctor import Checkup, examine


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes seconds to load."""
    monkeypatch.setattr(doctor, "_torch", lambda found: None)


def said(found: Checkup) -> str:
    return "\n".join(found.lines())


@pytest.mark.usefixtures("without_torch")
def test_this_machine(tmp_path: Path) -> None:
    found = examine(tmp_path / "not" / "there")
    assert found.versions["sentencepiece"] == metadata.version("sentencepiece")
    assert found.machine["free disk"] > 0 and found.machine["cores"] >= 1
    assert found.machine["memory"] >= found.machine["free memory"] > 0
    for word in ("versions", "machine", "GPU", "kernels", "free disk"):
        assert word in said(found)


@pytest.mark.usefixtures("without_torch")
def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = [
        "numpy>=1.26", "not-there>=2 ; extra == 'pages'", "sentencepiece>=99 ; extra == \"train\"",
        "zhuzi[train] ; extra == 'demo'", "never-mind>=1 ; extra == 'dev'",
    ]  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    monkeypatch.setattr(doctor, "_memory", lambda: (8 * 10**9, 4 * 10**9))
    monkeypatch.setattr(doctor, "_processor", lambda: ("old", {"sse2"}))
    monkeypatch.setattr(doctor, "free_bytes", lambda place: 10**9)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10**9, 10**9))
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror")
    found = examine(tmp_path)
    assert found.versions["not-there"] is None and "never-mind" not in found.versions
    text = said(found)
    for part in (
        "will not work: HTML pages (--html): not-there is not installed\n  pip install 'zhuzi[pages]'",
        "tested with >=99",
        "could be better: a 7B on the CPU: 4.0 GB of memory are free",
        "could be better: the steps of a 7B: 1.0 GB are free on the disk",
        "the processor has no AVX2",
        "files are limited to 1.0 GB (ulimit -f)",
        "HF_ENDPOINT             https://mirror",
    ):
        assert part in text, text
    assert "2 that will not work" in repr(found)


@pytest.mark.usefixtures("without_torch")
def test_the_command(tmp_path: Path) -> None:
    made = json.loads(CliRunner().invoke(cli, ["doctor", str(tmp_path), "--json"]).output)
    assert {"versions", "machine", "gpus", "kernels", "settings", "findings"} == made.keys()
    assert CliRunner().invoke(cli, ["doctor"]).output.startswith("versions\n")


def test_kernels_are_tried() -> None:
    torch = pytest.importorskip("torch")
    found = examine()
    assert found.versions["torch"] == torch.__version__
    assert found.kernels["8-bit base (bitsandbytes)"] and found.kernels["4-bit base (bitsandbytes)"]
    assert bool(found.gpus) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("cuda", "why"), [(None, "is built for the CPU"), ("13.2", "is built for CUDA 13.2 and finds no GPU")]
)
def test_a_gpu_that_torch_does_not_see(cuda: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    found = examine()
    assert any(finding.what == "the GPU of this machine" and why in finding.why for finding in found.findings)


@pytest.mark.parametrize(
    ("name", "broken"),
    [("_quantises", "base_bits: 8: bitsandbytes does not"), ("_import_layers", "training: its")],
)
def test_what_breaks_is_a_finding(name: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    def fail(*arguments: Any) -> Callable[..., Any]:
        raise RuntimeError("libcudart.so: not found\nmore")

    monkeypatch.setattr(doctor, name, fail)
    text = said(examine())
    assert f"will not work: {broken}" in text and "(libcudart.so: not found)" in text
