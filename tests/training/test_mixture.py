"""Several corpora with weights, and documents that do not see each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny import write_corpus

from zhuzi import Tokenizer, pretrain
from zhuzi.cli import cli
from zhuzi.corpus import Corpus
from zhuzi.errors import MismatchError, OutputExistsError, RecipeError
from zhuzi.model import model_info
from zhuzi.model.folder import ModelFolder
from zhuzi.train.data import IGNORED, Blocks, SeparateBlocks, collate_separate
from zhuzi.train.mixture import Mixture
from zhuzi.train.recipe import PretrainRecipe

Recipes = Callable[..., Any]


@pytest.fixture
def english(model: Path, tmp_path: Path) -> Path:
    """A second corpus: one sentence, 40 times."""
    tokenizer = Tokenizer.from_dir(model)
    documents = [tokenizer.encode("The river rises in the hills.", add_eos=True)] * 40
    folder = tmp_path / "english"
    folder.mkdir()
    write_corpus(folder, [documents], fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size)
    return folder


def mixture(tmp_path: Path, *weights: float) -> Mixture:
    """A corpus of 10 blocks of two tokens for each weight."""
    parts = []
    for i in range(len(weights)):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_corpus(folder, [[[i] * 21]], fingerprint="f", vocab_size=9)
        parts.append(Blocks(Corpus(folder), 2, 9))
    return Mixture(parts, weights)


def test_weights_say_how_often_a_block_is_in_an_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = mixture(tmp_path, 1, 2.5, 0.3)
    assert [blocks[i].tolist() for i in (0, 9, 10, 29)] == [[0, 0], [0, 0], [1, 1], [2, 2]]
    with caplog.at_level("INFO", "zhuzi.train"):
        order = list(blocks.epoch([], seed=1))
    assert "1: weight 2.5, 25 blocks of 38 in an epoch (65.8%)" in caplog.text
    uses = Counter(order)
    assert [uses[i] for i in range(10)] == [1] * 10
    assert sorted(uses[i] for i in range(10, 20)) == [2] * 5 + [3] * 5
    assert sorted(uses[i] for i in range(20, 30)) == [0] * 7 + [1] * 3
    assert order == list(blocks.epoch([], seed=1)) != list(blocks.epoch([], seed=2))
    # Of what is held out no copy trains.
    held = {0, 3, 12, 25, 29}
    uses = Counter(blocks.epoch(sorted(held), seed=1))
    assert not held & uses.keys() and len(uses) == 8 + 9 + 2 and sum(uses.values()) == 8 + 22 + 2


def test_a_run_on_two_corpora(
    stage1: Recipes, corpus: Path, english: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = [corpus, {"folder": english, "weight": 0.5}]
    evaluate = {"every": 100, "share": 0.2}
    with caplog.at_level("INFO", "zhuzi.train"):
        report = pretrain(stage1(corpus=mixed, evaluate=evaluate))
    assert "english: weight 0.5" in caplog.text
    assert pretrain(stage1(corpus=mixed, evaluate=evaluate)) == report, "finished"
    with pytest.raises(OutputExistsError, match="data"):
        pretrain(stage1(corpus=[corpus, {"folder": english, "weight": 0.6}], evaluate=evaluate))
    with pytest.raises(OutputExistsError, match="data"):
        pretrain(stage1(corpus=corpus, evaluate=evaluate))
    named = json.loads((report.result / "zhuzi.json").read_bytes())["trained_on"]
    wanted = [
        (str(folder), weight, Corpus(folder).tokens) for folder, weight in ((corpus, 1), (english, 0.5))
    ]
    assert [(it["path"], it["weight"], it["tokens"]) for it in named] == wanted
    for folder in (report.result, report.output):  # the model, and the run
        found = model_info(folder, verify=True)
        data = [link for link in found.chain if link.kind == "corpus"]
        assert not found.problems and [link.made_with["weight"] for link in data] == [1, 0.5]
        assert [link.fingerprint for link in data] == [Corpus(it).fingerprint() for it in (corpus, english)]
    (english / "manifest.json").write_text((english / "manifest.json").read_text() + "\n")
    assert any(
        "english: its content is not what was used" in it for it in model_info(folder, verify=True).problems
    )
    shown = CliRunner().invoke(cli, ["model", "info", str(folder), "--verify"]).output
    assert f"{english}: corpus, fingerprint {data[1].fingerprint[:12]}" in shown and "CHANGED SINCE" in shown
    single = pretrain(stage1(output=tmp_path / "single"))
    one = pretrain(stage1(corpus=[{"folder": corpus}], output=tmp_path / "one"))
    assert one.losses == single.losses, "one corpus with weight 1 is that corpus"


def test_wrong_corpora_are_named(stage1: Recipes, corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_corpus(other, [[[1, 2, 3] * 20]], fingerprint="another", vocab_size=9)
    with pytest.raises(MismatchError, match="other: encoded by another tokenizer"):
        pretrain(stage1(corpus=[corpus, other]))
    with pytest.raises(ValueError, match="named twice"):
        stage1(corpus=[corpus, {"folder": corpus, "weight": 2}])
    with pytest.raises(ValueError, match="greater than 0"):
        stage1(corpus=[{"folder": corpus, "weight": 0}])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: pretrain\nmodel: m\noutput: o\nsteps: 1\nbatch_size: 1\nlearning_rate: 1\n"
        f"corpus: [{{folder: {corpus}, wieght: 2}}]\n"
    )
    with pytest.raises(RecipeError, match="did you mean 'weight'"):
        pretrain(recipe)


def test_positions_restart_with_each_document(tmp_path: Path) -> None:
    write_corpus(tmp_path, [[[1, 2, 3], [4, 5]], [[6], [7, 8, 1, 2]]], fingerprint="f", vocab_size=9)
    blocks = SeparateBlocks(Corpus(tmp_path), 5, 9)
    batch = collate_separate([blocks[0], blocks[1]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 1, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[1, 2, 3, IGNORED, 5], [6, IGNORED, 8, 1, 2]]
    halves = SeparateBlocks(Corpus(tmp_path), 2, 9)
    assert [halves[i][2].tolist() for i in range(5)] == [[0, 1], [0, 0], [0, 0], [0, 1], [0, 1]]


def test_separate_documents_have_the_losses_they_have_alone(model: Path, tmp_path: Path) -> None:
    documents = [[5, 9, 13, 7], [11, 6, 8], [300, 301, 302, 303, 304]]
    write_corpus(tmp_path, [documents], fingerprint="f", vocab_size=410)
    live = ModelFolder.open(model).load(torch.float32)
    block = collate_separate([SeparateBlocks(Corpus(tmp_path), 12, 410)[0]])
    with torch.no_grad():
        # With a cache, as for generating, transformers makes no such mask.
        together = float(live(**block, use_cache=False).loss) * 9  # predicted tokens
        alone = sum(
            float(live(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
            for ids in documents
        )
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_run_with_separate_documents(stage1: Recipes, english: Path, tmp_path: Path) -> None:
    apart = pretrain(stage1(corpus=english, separate_documents=True, output=tmp_path / "apart"))
    joined = pretrain(stage1(corpus=english, output=tmp_path / "joined"))
    assert apart.losses[0] != joined.losses[0]
    assert isinstance(stage1(corpus=english), PretrainRecipe)
