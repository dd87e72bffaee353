"""`zhuzi sft --preview`: what is shown is what is trained on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from zhuzi import Tokenizer
from zhuzi.cli import cli
from zhuzi.cli.preview import show_records
from zhuzi.errors import InputError
from zhuzi.train import preview_records
from zhuzi.train.data import IGNORED, Records


@pytest.fixture
def recipe(model: Path, instructions: Path, tmp_path: Path) -> Path:
    """Two sources: four records of Alpaca, and conversations of which some cannot be used whole."""
    turns = [{"role": "user", "content": "天\x1b[31m"}, {"role": "assistant", "content": "地 </s>"}]
    long = [{"role": "user", "content": "天" * 900}, turns[1]]
    talks: list[Any] = [turns * 2, [*turns, turns[0]], turns[:1], long]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    settings = {
        "task": "sft", "model": str(model), "output": str(tmp_path / "out"), "steps": 1, "batch_size": 1,
        "learning_rate": 1e-4, "lora": {"rank": 2}, "sequence_length": 180,
        "instructions": [str(instructions), {"files": str(path), "weight": 2}],
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_records_in_turn_as_they_are_trained_on(recipe: Path, model: Path, instructions: Path) -> None:
    shown = list(preview_records(recipe, 20))
    chats = recipe.with_name("chats.jsonl")
    assert [record.place.rsplit(": ", 1)[1] for record in shown] == [
        f"{unit} {n}" for n in range(1, 5) for unit in ("record", "line")
    ]  # fmt: skip
    tokenizer = Tokenizer.from_dir(model)
    for path, some in ((instructions, shown[::2]), (chats, shown[1::2])):
        records = Records([path], tokenizer, 180)
        kept = [record for record in some if record.ids]
        assert [(record.ids, record.labels) for record in kept] == [records[i] for i in range(len(records))]
    notes = [record.note for record in shown[1::2]]
    assert notes[0] == "cut at 180 tokens"
    assert notes[1] == "its last question has no answer and is left out"
    assert notes[2].startswith("left out: no answer has text")
    assert notes[3] == "left out: the prompt fills the 180 tokens"
    for record in shown:
        read = "".join(text for kind, text in record.parts if "control" not in kind)
        assert read.strip() == tokenizer.decode(record.ids).strip() or record.ids.count(1) > 1
        controls = [text for kind, text in record.parts if "control" in kind]
        assert controls == [{1: "<s>", 2: "</s>"}[id] for id in record.ids if id in (1, 2)]
        learned = sum(label != IGNORED for label in record.labels)
        assert bool(learned) == any(kind.startswith("learned") for kind, _ in record.parts)
    assert len(list(preview_records(recipe, 3))) == 3


def test_what_is_printed(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = CliRunner().invoke(cli, ["sft", str(recipe), "--preview", "2"], catch_exceptions=False).stdout
    assert "what is learned is between ⟦ and ⟧" in printed
    assert "### Instruction:\n你好\n\n### Response: ⟦ 世界</s>⟧\n" in printed
    assert "天␛[31m" in printed and "\x1b" not in printed  # not the record's own colours
    assert "⟦ 地 </s></s>⟧" in printed and "learned; cut at 180 tokens" in printed

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "echo", lambda text="": sys.stdout.write(f"{text}\n"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_records(recipe, 1, ())
    coloured = capsys.readouterr().out
    assert click.style(" 世界", fg="green") in coloured and click.style("<s>", fg="bright_black") in coloured


def test_every_file_that_is_named_has_its_turn(recipe: Path, instructions: Path) -> None:
    folder = recipe.parent
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"instruction": name, "output": name}) + "\n")
    (folder / "empty.jsonl").write_text("")
    named = [str(instructions), *(str(folder / f"{name}.jsonl") for name in ("empty", "a", "b"))]
    shown = list(preview_records(recipe, 3, settings=[f"instructions={json.dumps(named)}"]))
    assert [Path(record.place.rsplit(": ", 1)[0]).name for record in shown] == [
        instructions.name, "a.jsonl", "b.jsonl",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"empty.jsonl: contains no records"):
        list(preview_records(recipe, 3, settings=[f"instructions={folder / 'empty.jsonl'}"]))


def test_records_that_are_passed_over_are_named(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"instruction": "天", "output": "地"}\n{"instruction": ["天"], "output": "地"}\n{"a"\n')
    told = [f"instructions={path}", "on_error=skip"]
    assert len(list(preview_records(recipe, 5, settings=told))) == 1
    assert "1 wrong record, such as" in caplog.text and "mixed.jsonl: line 2: " in caplog.text
    assert "1 record that cannot be read" in caplog.text


def test_a_map_on_the_line(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"q": "天", "a b": "地"}))
    given = ["sft", str(recipe), "--preview", "1", "--set", f"instructions={path}"]
    mapped = [*given, "--map", "instruction=q", "--map", "output=a b"]
    assert "天\n\n### Response: ⟦ 地</s>⟧" in CliRunner().invoke(cli, mapped, catch_exceptions=False).stdout
    assert CliRunner().invoke(cli, [*given, "--map", "instruction"]).exit_code == 2
    assert "no 'instruction'" in str(CliRunner().invoke(cli, given).exception)
    wrong = CliRunner().invoke(cli, [*given, "--map", "instrution=q"])
    assert "did you mean 'instruction'" in str(wrong.exception)
