"""What users install: the wheel where there is no Rust, and the source distribution.

`ZHUZI_DIST=FOLDER` names a folder that `make wheel` has filled; otherwise it is built here, some minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

#: Run with the wheel alone: ids of the corpus beside sentencepiece's, which is one of its dependencies.
COMPARE = """
import json, sys
from pathlib import Path
import sentencepiece, zhuzi
assert "torch" not in sys.modules
tokenizer, corpus, texts = sys.argv[1:]
theirs = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
ours = [document.tolist() for document in zhuzi.Corpus(Path(corpus))]
texts = [json.loads(line)["text"] for line in open(texts, encoding="utf-8")]
print(len(ours), sum(a[: len(b)] == b for a, b in zip(ours, theirs.encode(texts), strict=True)))
"""


def _run(*command: object, cwd: Path = ROOT) -> str:
    """Standard output of a command that must succeed, without cargo and without this tree."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    kept["PATH"] = os.pathsep.join(
        p for p in kept["PATH"].split(os.pathsep) if not shutil.which("cargo", path=p)
    )
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "ZHUZI_DIST" in os.environ:
        return Path(os.environ["ZHUZI_DIST"]).absolute()
    for tool in ("make", "cargo"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, or ZHUZI_DIST=FOLDER with a wheel")
    subprocess.run(["make", "wheel"], cwd=ROOT, check=True)
    return ROOT / "dist"


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_it_runs_on_old_distributions(dist: Path) -> None:
    pytest.importorskip("auditwheel", reason="auditwheel is not installed: make wheel installs it")
    subprocess.run([sys.executable, ROOT / "tools" / "check_wheel.py", dist], check=True)


def test_the_wheel_works_where_there_is_no_rust(dist: Path, tmp_path: Path) -> None:
    """Train a vocabulary, encode and verify a corpus; the ids are sentencepiece's."""
    texts = tmp_path / "texts.jsonl"
    paragraphs = [p for p in (ROOT / "README.zh.md").read_text("utf-8").split("\n\n") if p.strip()]
    rows = [json.dumps({"text": p}, ensure_ascii=False) + "\n" for p in paragraphs]
    texts.write_text("".join(rows), "utf-8")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", _only(dist, "*.whl"), cwd=tmp_path)
    zhuzi, model, corpus = (
        tmp_path / "env" / "bin" / "zhuzi",
        tmp_path / "own" / "tokenizer.model",
        tmp_path / "corpus",
    )
    _run(zhuzi, "vocab", "train", texts, "--type", "bpe", "--vocab-size", 900, "--out", model, cwd=tmp_path)
    _run(zhuzi, "corpus", "encode", texts, "--tokenizer", model.parent, "--out", corpus, cwd=tmp_path)
    _run(zhuzi, "corpus", "verify", corpus, cwd=tmp_path)
    count, equal = _run(python, "-c", COMPARE, model, corpus, texts, cwd=tmp_path).split()
    assert int(count) == int(equal) == len(paragraphs)


def test_the_source_distribution_has_what_a_build_needs(dist: Path, tmp_path: Path) -> None:
    """And nothing of the machine it was made on; Rust compiles it to the same package."""
    with tarfile.open(_only(dist, "*.tar.gz")) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path, filter="data")
    assert {"Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "pyproject.toml"} <= set(names)
    assert not [
        name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("target", ".venv"))
    ]
    if shutil.which("cargo") is None:
        pytest.skip("building it needs Rust")
    (source,) = tmp_path.glob("zhuzi-*")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(command, check=True)
    built, released = _only(tmp_path, "*.whl"), _only(dist, "*.whl")
    assert _contents(built) == _contents(released)


def _contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/sboms" not in name}
