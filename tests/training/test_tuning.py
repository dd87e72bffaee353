"""Tuning on conversations and weighted sources: held out, packed, resumed, refused if they changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zhuzi import Tokenizer, sft
from zhuzi.errors import OutputExistsError, RecipeError
from zhuzi.train.data import Records
from zhuzi.train.recipe import SftRecipe
from zhuzi.train.recipe_file import load_recipe
from zhuzi.train.tuning import _examples

Recipes = Callable[..., Any]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Six conversations, one of them wrong, and one whose last question has no answer."""
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "天"}, {"role": "assistant", "content": "地"}]
    records: list[Any] = [{"messages": turns * (1 + i % 2)} for i in range(4)]
    records += [{"messages": [*turns, turns[0]]}, {"messages": turns[1:]}]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def recipe(stage2: Recipes, chats: Path, instructions: Path) -> Callable[..., SftRecipe]:
    settings = stage2(base_bits=16, sequence_length=200, steps=4).model_dump(
        exclude={"corpus", "separate_documents"}
    )
    sources = [str(instructions), {"files": str(chats), "weight": 2}]

    def make(**changes: Any) -> SftRecipe:
        given = {"task": "sft", "instructions": sources, "on_error": "skip", **changes}
        return SftRecipe.model_validate({**settings, **given})

    return make


@pytest.mark.parametrize("packing", [False, True])
def test_no_copy_of_what_is_held_out_trains(
    recipe: Callable[..., SftRecipe], model: Path, packing: bool
) -> None:
    made = recipe(evaluate={"share": 0.3}, packing=packing)
    records = Records(made.sources, Tokenizer.from_dir(model), 200, on_error="skip")
    assert (len(records), records.skipped, records.unanswered) == (9, 1, 1)
    _, apart = _examples(made, records)
    assert apart is not None
    train, held_out = apart
    if packing:
        train, held_out = train.records, held_out.records
    assert len(held_out) == 3 and len(set(train.indices)) == 6
    assert not set(train.indices) & set(held_out.indices)
    assert all(train.indices.count(i) == (1 if i < 4 else 2) for i in train.indices)


@pytest.mark.parametrize("packing", [False, True])
def test_a_run_on_weighted_sources(
    recipe: Callable[..., SftRecipe], packing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = recipe(evaluate={"share": 0.3, "every": 2}, packing=packing, train_on_prompt=not packing)
    with caplog.at_level("INFO", "zhuzi.train"):
        report = sft(made)
    assert "6 records, " in caplog.text and "in an epoch by their weights" in caplog.text
    assert (report.skipped, report.unanswered, report.steps) == (1, 1, 4)
    assert report.evaluations and report.losses[-1][1] < report.losses[0][1]
    again = json.loads((made.output / "report.json").read_text())
    assert again["skipped"] == 1
    assert sft(made).losses == report.losses  # finished: nothing is done

    files = [source.files for source in made.sources]
    sources = [str(files[0][0]), {"files": [str(path) for path in files[1]], "weight": 3}]
    with pytest.raises(OutputExistsError, match=r"holds a run whose data .*weight 2.* differs"):
        sft(made.model_copy(update={"instructions": recipe(instructions=sources).instructions}))
    with pytest.raises(OutputExistsError, match=r"holds a run whose on_error .* differs"):
        sft(made.model_copy(update={"on_error": "stop"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instructions: [{files: a.json, wieght: 2}]", "unknown key 'instructions.0.wieght'; did you"),
        ("instructions: {files: a.json, weight: 0}", "instructions.0.weight: want more than 0"),
        ("instructions: {weight: 2}", "instructions.0.files is missing"),
        ("instructions: [{files: []}]", "instructions.0.files: want one or more"),
        ("instructions: {files: a.json, map: {instrution: b}}", "'instrution' is no field of a rec"),
        ("instructions: a.json\nmap: prompt", "map: want keys of its own, as in {instruction: prompt"),
        ("instructions: a.json\nmap: {output: ''}", "map.output: "),
        ("instructions: a.json\non_error: ignore", "on_error: want 'stop' or 'skip'"),
    ],
)  # fmt: skip
def test_keys_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    rest = "task: sft\nmodel: m\noutput: o\nsteps: 1\nbatch_size: 1\nlearning_rate: 1.0e-4\n"
    path.write_text(f"{rest}{text}\n")
    with pytest.raises(RecipeError, match=message.replace("[", r"\[").replace("{", r"\{")):
        load_recipe(path)


def test_keys_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: sft\nmodel: m\noutput: o\nsteps: 1\nbatch_size: 1\nlearning_rate: 1.0e-4\n"
        "map: {instruction: prompt, output: response}\n"
        "instructions: [a.json, {files: $DATA/b.jsonl, weight: 0.5}, {files: [c, d], map: {}}]\n"
    )
    made = load_recipe(path)
    assert isinstance(made, SftRecipe)
    mapped = {"instruction": "prompt", "output": "response"}
    assert [(source.files, source.weight, source.fields) for source in made.sources] == [
        ((Path("a.json"),), 1, mapped),
        ((Path("/data/b.jsonl"),), 0.5, mapped),
        ((Path("c"), Path("d")), 1, {}),
    ]
    assert made.data == (Path("a.json"), Path("/data/b.jsonl"), Path("c"), Path("d"))
    again = SftRecipe.model_validate(made.model_dump(mode="json"))
    assert again.model_dump() == made.model_dump()
