"""What is held out is measured, and does not train."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from stops import Stop, StopAt

from zhuzi import bits_per_byte, merge_adapter, pretrain
from zhuzi.cli import cli
from zhuzi.corpus.dataset import Corpus
from zhuzi.errors import RecipeError, TrainingError
from zhuzi.model.folder import ModelFolder
from zhuzi.train import TrainCallback, TrainState
from zhuzi.train.data import Blocks
from zhuzi.train.evaluation import split
from zhuzi.train.measures import changes, figures, is_over
from zhuzi.train.recipe import EvaluateRecipe

Recipes = Callable[..., Any]
DOCS = Path(__file__).parents[2] / "docs"


def test_held_out_examples_do_not_train(corpus: Path) -> None:
    blocks = Blocks(Corpus(corpus), 16, 410)
    settings = EvaluateRecipe(share=0.2)
    trained, held = split(blocks, settings, seed=1)
    assert held is not None and len(held) == round(0.2 * len(blocks))
    assert sorted([*trained.indices, *held.indices]) == list(range(len(blocks)))
    assert split(blocks, settings, seed=1)[1].indices == held.indices  # type: ignore[union-attr]
    assert split(blocks, EvaluateRecipe(share=0, texts=(Path("a.txt"),)), seed=1) == (blocks, None)
    with pytest.raises(TrainingError, match="cannot be split"):
        split([1], settings, seed=1)


def test_losses_and_bits_per_byte_are_those_of_the_result(
    stage1: Recipes, tmp_path: Path, model: Path
) -> None:
    text = tmp_path / "en.txt"
    text.write_text("The river rises in the hills.\nA good tool does one thing well.\n")
    evaluate = {"every": 2, "share": 0.1, "texts": [text]}
    report = pretrain(stage1(evaluate=evaluate))
    assert [entry["step"] for entry in report.evaluations] == [0, 2, 4, 6]
    losses = [entry["loss"] for entry in report.evaluations]
    assert losses[-1] < losses[1] and losses[1] == pytest.approx(report.losses[0][1], rel=0.1)
    for folder, at in ((model, 0), (report.result, -1)):
        made = ModelFolder.open(folder)
        measured = bits_per_byte(
            made.load(torch.float32), made.tokenizer, text.read_text().splitlines(), context=16
        )
        found = report.evaluations[at]["bits_per_byte"]
        assert found.keys() == {"held out", "en.txt"}
        assert found["en.txt"] == pytest.approx(measured.per_byte, rel=1e-3)  # saved in 16 bits
    lines = [json.loads(line) for line in (report.output / "log.jsonl").read_text().splitlines()]
    assert [line["evaluation"] for line in lines if "evaluation" in line] == report.evaluations
    assert pretrain(stage1(evaluate=evaluate)) == report


def test_what_is_forgotten_is_shown_from_the_start_to_the_end(
    stage1: Recipes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (("en.txt", "The river rises in the hills."), ("zh.txt", "你好世界，天很高。")):
        (tmp_path / name).write_text(text)
    texts = [str(tmp_path / name) for name in ("en.txt", "zh.txt")]
    recipe = stage1(evaluate={"every": 3, "share": 0.1, "texts": texts}, learning_rate=0.1)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    caplog.set_level("INFO", "zhuzi.train")
    done = CliRunner().invoke(cli, ["pretrain", str(path)])
    assert done.exit_code == 0, done.output
    report = pretrain(recipe)
    first, last = (report.evaluations[at]["bits_per_byte"] for at in (0, -1))
    assert last["zh.txt"] < first["zh.txt"] and last["en.txt"] != first["en.txt"]
    difference = last["en.txt"] - first["en.txt"]
    told = [line for line in caplog.messages if "evaluation" in line]
    assert len(told) == 3 and "since the start" not in told[0]
    assert f"en.txt {last['en.txt']:.4f} bits per byte ({difference:+.4f} since the start)" in told[2]
    shown = f"{first['en.txt']:.4f} at the start, {last['en.txt']:.4f} now ({difference:+.4f})"
    assert f"en.txt, bits per byte: {shown}\n" in done.output
    assert f"{first['en.txt']:.4f} to {last['en.txt']:.4f} ({difference:+.4f})" in report._repr_html_()


def test_an_evaluation_that_takes_long_says_how_far_it_is(
    stage1: Recipes, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most every few seconds; the result has the seconds; nothing else changes."""
    (tmp_path / "en.txt").write_text("The river rises in the hills.\nA good tool does one thing well.\n")
    evaluate = {"every": 3, "share": 0.1, "texts": [str(tmp_path / "en.txt")]}
    caplog.set_level("INFO", "zhuzi.train")
    short = pretrain(stage1(evaluate=evaluate, output=tmp_path / "short"))
    assert not any("evaluating" in line for line in caplog.messages)
    caplog.clear()
    monkeypatch.setattr("zhuzi.train.log.EVERY", 0.0)
    long = pretrain(stage1(evaluate=evaluate, output=tmp_path / "long"))
    assert long.losses == short.losses
    assert list(map(figures, long.evaluations)) == list(map(figures, short.evaluations))
    told = [line for line in caplog.messages if "evaluating" in line]
    assert any(re.fullmatch(r"step 3: evaluating, 2 of \d+ held-out examples", line) for line in told)
    assert "step 0: evaluating en.txt, 1 of 2 documents" in told
    lines = [line for line in caplog.messages if "evaluation:" in line]
    for line, entry in zip(lines, long.evaluations, strict=True):
        assert line.endswith(f", {entry['seconds']:.1f} s")
    caplog.clear()
    pretrain(stage1(evaluate=evaluate, output=tmp_path / "silent"), progress=False)
    assert not any("evaluation:" in line or "evaluating" in line for line in caplog.messages)


def test_changes_need_a_start() -> None:
    entries = [{"step": step, "loss": 3.0 - step, "bits_per_byte": {"en": 1.0 + step}} for step in (0, 1, 2)]
    assert changes(entries) == [("loss", 3.0, 1.0), ("en", 1.0, 3.0)]
    assert changes(entries[1:]) == [("loss", None, 1.0), ("en", None, 3.0)]
    assert changes(entries[:1]) == [("loss", None, 3.0), ("en", None, 1.0)] and changes([]) == []


def test_evaluating_changes_nothing_and_resumes(stage2: Recipes, tmp_path: Path) -> None:
    evaluate = {"every": 1, "share": 0.1}
    rarely = pretrain(stage2(output=tmp_path / "rarely", evaluate={**evaluate, "every": 6}))
    whole = pretrain(stage2(output=tmp_path / "whole", evaluate=evaluate))
    assert whole.losses == rarely.losses
    assert figures(whole.evaluations[-1]) == figures(rarely.evaluations[-1])
    recipe = stage2(output=tmp_path / "stopped", evaluate=evaluate)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt(4)])
    resumed = pretrain(recipe)
    assert resumed.losses == whole.losses
    assert list(map(figures, resumed.evaluations)) == list(map(figures, whole.evaluations))


def test_the_best_checkpoint_is_kept_and_patience_ends_a_run(
    stage2: Recipes, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Harm(TrainCallback):
        """Makes the model worse after step 2."""

        def on_step_end(self, state: TrainState) -> None:
            if state.step == 3:
                head = state.model.get_output_embeddings().modules_to_save["default"]
                head.weight.data *= -3

    recipe = stage2(evaluate={"every": 1, "share": 0.1, "patience": 2}, save_every=1, keep_checkpoints=1)
    caplog.set_level("INFO", "zhuzi.train")
    report = pretrain(recipe, callbacks=[Harm()])
    assert report.steps == 4 < recipe.steps
    assert caplog.messages[-1] == (
        "ended after step 4 of 6: no lower loss in 2 evaluations (patience); the result is that of step 4, "
        f"the best was at step 2 ({report.output}/checkpoints/checkpoint-2)"
    )
    assert sorted(p.name for p in (report.output / "checkpoints").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    merge_adapter(model, report.result, tmp_path / "merged")


@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
@pytest.mark.parametrize("page", ["training.md", "zh/training.md"])
def test_a_checkpoint_becomes_an_adapter_as_the_page_says(
    stage2: Recipes, model: Path, tmp_path: Path, page: str, vocabulary: str
) -> None:
    report = pretrain(stage2(vocabulary=vocabulary))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(next(block for block in blocks if "def adapter_of" in block), names)
    for step in (3, 6):
        names["adapter_of"](report.output / f"checkpoints/checkpoint-{step}", model, tmp_path / str(step))
    folders = [tmp_path / "3", tmp_path / "6", report.result]
    first, last, result = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert first.keys() == last.keys() == result.keys()
    assert not any(torch.equal(first[name], result[name]) for name in result)
    # A matrix that was trained whole is kept in the base's type, to which a merge rounds it.
    for adapter, out in zip(folders, ("old", "new", "own"), strict=True):
        merge_adapter(model, adapter, tmp_path / out, unverified=adapter != report.result)
    old, new, own = (load_file(tmp_path / out / "model.safetensors") for out in ("old", "new", "own"))
    assert all(torch.equal(new[name], own[name]) for name in own)
    assert any(not torch.equal(old[name], own[name]) for name in own)


def test_patience_that_ends_where_it_began_says_so(stage2: Recipes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zhuzi.train")
    pretrain(stage2(evaluate={"every": 1, "share": 0.1, "patience": 1}, steps=50, learning_rate=50.0))
    assert "no lower loss in 1 evaluation (patience)" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("the best was at step 0 (the model as it was before)")


def test_patience_counts_evaluations_without_a_lower_loss() -> None:
    def over(*losses: float) -> bool:
        return is_over([{"step": i, "loss": loss} for i, loss in enumerate(losses)], 2)

    assert not over() and not over(3) and not over(3, 4) and not over(3, 4, 2)
    assert over(3, 4, 4) and over(3, 3, 3) and over(2, 1, 2, 2)
    assert not is_over([{"step": 1}], 1) and not is_over([{"step": 1, "loss": 1.0}], None)


def test_a_run_that_patience_ends_before_its_first_log_has_a_loss(stage2: Recipes) -> None:
    evaluate = {"every": 1, "share": 0.1, "patience": 1}
    report = pretrain(stage2(evaluate=evaluate, log_every=100, steps=50, learning_rate=5.0))
    assert report.steps < 10 and [step for step, _ in report.losses] == [report.steps]


def test_texts_of_one_name_are_measured_apart(stage1: Recipes, tmp_path: Path) -> None:
    texts = [tmp_path / folder / "valid.txt" for folder in ("en", "zh")]
    for path, text in zip(texts, ("The river rises.", "你好世界"), strict=True):
        path.parent.mkdir()
        path.write_text(text)
    report = pretrain(stage1(steps=1, evaluate={"every": 1, "share": 0, "texts": texts}))
    assert report.evaluations[-1]["bits_per_byte"].keys() == {str(path) for path in texts}


def test_texts_that_cannot_be_measured_are_refused_before_the_run(stage1: Recipes, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    for name, message in (("empty.txt", "contains no text"), ("absent.txt", "cannot be read")):
        recipe = stage1(evaluate={"every": 2, "texts": [tmp_path / name]})
        with pytest.raises(RecipeError, match=rf"evaluate\.texts: .*{name}: {message}"):
            pretrain(recipe)
    assert not stage1().output.exists()
