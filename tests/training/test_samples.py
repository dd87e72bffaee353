"""Texts written while training: those of the model at that step, and training goes as without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zhuzi import Tokenizer, pretrain, sft
from zhuzi.errors import RecipeError
from zhuzi.infer.chat import Chat, complete
from zhuzi.infer.sampling import Sampling
from zhuzi.train import TrainCallback, TrainState
from zhuzi.train.recipe import SftRecipe

Recipes = Callable[..., Any]
SAMPLES = {"every": 2, "prompts": ["The river", "你好"], "max_new_tokens": 8, "temperature": 1.0}


class Stop(Exception):  # noqa: N818  # nothing went wrong
    """What a test raises in the middle."""


class StopAt(TrainCallback):
    """Raises before the step after 4, which wrote samples that no checkpoint knows."""

    def on_step_begin(self, state: TrainState) -> None:
        assert state.model.training
        if state.step == 4:
            raise Stop


def _samples(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("vocabulary", ["full", "new-rows"])
def test_samples_change_nothing_and_resume(stage2: Recipes, tmp_path: Path, vocabulary: str) -> None:
    """Over 8 bits, with dropout and checkpointing."""
    settings = {"vocabulary": vocabulary, "gradient_checkpointing": True}
    without = pretrain(stage2(output=tmp_path / "without", **settings))
    whole = pretrain(stage2(output=tmp_path / "whole", samples=SAMPLES, **settings))
    assert whole.losses == without.losses
    found = _samples(whole.output)
    assert [(s["step"], s["prompt"]) for s in found] == [
        (step, prompt) for step in (0, 2, 4, 6) for prompt in ("The river", "你好")
    ]
    recipe = stage2(output=tmp_path / "stopped", samples=SAMPLES, **settings)
    with pytest.raises(Stop):
        pretrain(recipe, callbacks=[StopAt()])
    assert _samples(recipe.output)[-1]["step"] == 4
    assert pretrain(recipe).losses == whole.losses
    assert _samples(recipe.output) == found


def test_samples_are_those_of_the_model(
    stage1: Recipes, instructions: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Ask(TrainCallback):
        """Asks the model once more at the end."""

        def on_train_end(self, state: TrainState) -> None:
            answers.append(complete(state.model, tokenizer, "你好", sampling=sampling))
            answers.append("".join(Chat(state.model, tokenizer).reply("你好", sampling=sampling)))

    caplog.set_level("INFO", "zhuzi.train")
    sampling = Sampling(max_new_tokens=8, temperature=1.0, seed=42)
    tokenizer = Tokenizer.from_dir(model)
    answers: list[str] = []
    report = pretrain(stage1(samples=SAMPLES), callbacks=[Ask()])
    assert _samples(report.output)[-1]["text"] == answers[0]
    assert sum("sample: The river >>>" in line for line in caplog.messages) == 4
    settings = stage1().model_dump(exclude={"corpus", "separate_documents"}) | {
        "task": "sft", "output": tmp_path / "tuned", "instructions": instructions, "sequence_length": 128,
        "samples": {**SAMPLES, "prompts": "你好"},
    }  # fmt: skip
    tuned = sft(SftRecipe.model_validate(settings), callbacks=[Ask()])
    assert _samples(tuned.output)[-1]["text"] == answers[3] != answers[2]


def test_a_prompt_without_room_for_an_answer_is_refused(stage1: Recipes) -> None:
    with pytest.raises(RecipeError, match=r"samples\.prompts: '天天.*256 positions"):
        pretrain(stage1(samples={"prompts": ["天" * 300]}))
    assert not stage1().output.exists()
