"""The next major version of `tokenizers`, in an environment of its own: does it give the same ids?

transformers does not take it yet, so it reads the tokenizer.json by itself, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zhuzi
from texts import HARD_TEXTS, reference_corpora
from zhuzi.record.json_file import write_json
from zhuzi.vocab import extend_vocab
from zhuzi.vocab.engines import load, special_tokens
from zhuzi.vocab.fast_file import fast_file, why_inexact

pytestmark = pytest.mark.slow

#: Documents of each reference corpus.
DOCUMENTS = 40

#: Reads a tokenizer.json and texts; writes their ids, special tokens as text and recognised.
CHILD = """
import json, sys
import tokenizers
loaded = tokenizers.Tokenizer.from_file(sys.argv[1])
texts = json.load(open(sys.argv[2], encoding="utf-8"))
found = {"version": tokenizers.__version__}
for name, as_text in (("text", True), ("special", False)):
    batch = loaded.encode_batch(texts, add_special_tokens=False, encode_special_tokens=as_text)
    found[name] = [list(map(int, one.ids)) for one in batch]
json.dump(found, open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process that imports the newest 1.x, pre-releases included."""
    folder = tmp_path_factory.mktemp("tokenizers-next")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--pre", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--target", folder, "tokenizers>=1.0.0rc0,<2"], capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        pytest.skip(f"tokenizers 1.x cannot be installed: {said[-1]}")
    return {**os.environ, "PYTHONPATH": str(folder), "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def texts(chinese_texts: list[str], pytestconfig: pytest.Config) -> list[str]:
    """The embedded texts, and a part of each reference corpus where these are."""
    found = [*chinese_texts, *HARD_TEXTS, "a</s>b<s>", "</s></s> x", "<unk> [PAD] <0x0A>"]
    reference = Path(pytestconfig.rootpath).parent / "shared" / "data"
    for _, documents in reference_corpora(reference) if reference.is_dir() else ():
        found += documents[:DOCUMENTS]
    return found


@pytest.mark.parametrize("name", ["base", "ordered", "han", "all", "paper"])
def test_the_ids(
    name: str,
    environment: dict[str, str],
    texts: list[str],
    base_model_file: Path,
    donor: Path,
    chinese_file: Path,
    tmp_path: Path,
) -> None:
    if name == "base":
        folder = base_model_file
    elif name in ("ordered", "paper"):
        repair = name == "ordered"
        folder = zhuzi.merge_vocab(
            base_model_file, donor, tmp_path / "t", policy=name, repair=repair, add_tokens=["[PAD]"]
        ).folder
    else:
        folder = extend_vocab(
            chinese_file, base_model_file, tmp_path / "t", new_pieces=2000, scripts=name, characters="none"
        ).folder
    differing, version = compare(folder, texts, environment, tmp_path)
    sys.stderr.write(f"\ntokenizers {version}, {name}: {differing} of {len(texts):,} documents differ\n")
    if name == "paper":  # where it cannot, as no order of merges can
        assert why_inexact(load(folder)) is not None and differing["text"]
    else:
        assert why_inexact(load(folder)) is None and not any(differing.values())


@pytest.mark.parametrize("name", ["llama-32000", "chinese-llama-2-55296"])
def test_the_published_vocabularies(
    name: str, reference: Path, environment: dict[str, str], texts: list[str], tmp_path: Path
) -> None:
    model = reference / "tokenizers" / f"{name}.model"
    differing, version = compare(model, texts, environment, tmp_path)
    sys.stderr.write(f"\ntokenizers {version}, {name}: {differing} of {len(texts):,} documents differ\n")
    assert (why_inexact(load(model)) is None) == (not differing["text"])


def compare(
    model: Path, texts: list[str], environment: dict[str, str], folder: Path
) -> tuple[dict[str, int], str]:
    """How many texts have other ids than ours, special tokens as text and recognised; the version."""
    from zhuzi.vocab.engines import open_engines

    tokenizer = load(model)
    assert special_tokens(tokenizer)
    write_json(folder / "tokenizer.json", fast_file(tokenizer))
    (folder / "texts.json").write_text(json.dumps(texts), "utf-8")
    files = [str(folder / name) for name in ("tokenizer.json", "texts.json", "ids.json")]
    subprocess.run([sys.executable, "-c", CHILD, *files], env=environment, check=True)
    found = json.loads(Path(files[2]).read_text())
    differing = {}
    for kind in ("text", "special"):
        (ours,) = open_engines(tokenizer, ["zhuzi"], parse_special=kind == "special")
        assert ours.encode is not None
        differing[kind] = sum(a != b for a, b in zip(ours.encode(texts), found[kind], strict=True))
    return differing, found["version"]
