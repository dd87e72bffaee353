"""Real tokenizers and texts: what a package carries, and the reference data beside the clone where it is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import zhuzi

#: Reference tokenizers, corpora and instructions that developers have beside their clone; users do not.
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "data"

#: Texts on which tokenizers tend to differ.
HARD_TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\t\r\n",
    "a",
    "中",
    " 你 好  世界   ",
    "▁▁a▁b",
    "</s><s><unk><0x0A>[PAD]",
    "全角１２３，半角123。",
    "繁體字與简体字",
    "emoji 😀👨‍👩‍👧 和 𠮷野家 𝒜",
    "\x00nul\x00",
    "\ufffd\ufeff",
    "def f(x):\n    return x ** 2  # 平方",
    "https://example.com/路径?q=1&r=%E4%B8%AD",
    "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。",
    "ﬁ ① ㍿ ｱｲｳ é é",
    "的" * 300,
    "ab" * 300,
    "1234567890" * 20,
]


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


def reference_corpora(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(name, documents) of each reference corpus; all text is kept as it is."""
    zstandard = pytest.importorskip("zstandard")
    for path in sorted((folder / "corpora").glob("*.zst")):
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            text = io.TextIOWrapper(stream, "utf-8", newline="\n").read()
        if path.name.endswith(".jsonl.zst"):
            yield path.name, [json.loads(line)["text"] for line in text.splitlines() if line]
        else:
            yield path.name, text.split("\n\n\n" if "novels" in path.name else "\n")
