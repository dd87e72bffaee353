"""Real tokenizers and texts: what a package carries, and the reference data beside the clone where it is."""

from __future__ import annotations

import json
import signal
from importlib.resources import files
from pathlib import Path

import pytest

import zhuzi

#: Reference tokenizers, corpora and instructions that developers have beside their clone; users do not.
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "data"

# A suite in the background of a script ignores SIGINT, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference data, or a skip that says so."""
    if not REFERENCE.is_dir():
        pytest.skip(f"needs the reference data in {REFERENCE}")
    return REFERENCE


@pytest.fixture(scope="session")
def mistral() -> Path:
    """Folder of the SentencePiece models that mistral-common carries."""
    pytest.importorskip("mistral_common", reason="a real 32,000-piece model comes with the extra `demo`")
    return Path(str(files("mistral_common") / "data"))


@pytest.fixture(scope="session")
def base_model_file(mistral: Path) -> Path:
    """A real 32,000-piece BPE model with byte fallback."""
    return mistral / "tokenizer.model.v1"


@pytest.fixture(scope="session")
def chinese_texts() -> list[str]:
    """Original Chinese documents of many registers (the demo's sample)."""
    sample = files("zhuzi.demo") / "data" / "zh.jsonl"
    return [json.loads(line)["text"] for line in sample.read_text("utf-8").splitlines()]


@pytest.fixture(scope="session")
def chinese_file(chinese_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a jsonl file."""
    path = tmp_path_factory.mktemp("text") / "zh.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in chinese_texts))
    return path


@pytest.fixture(scope="session")
def donor(chinese_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unigram donor of 3,000 pieces."""
    out = tmp_path_factory.mktemp("donor") / "donor.model"
    return zhuzi.train_vocab([chinese_file], out, vocab_size=3000).path


@pytest.fixture(scope="session")
def merged(base_model_file: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer folder: the base with the donor's pieces and [PAD]."""
    out = tmp_path_factory.mktemp("merged") / "tokenizer"
    return zhuzi.merge_vocab(base_model_file, donor, out, add_tokens=["[PAD]"]).folder
