"""More positions by scaled RoPE: what the folder says, who reads it, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from zhuzi import Chat, Tokenizer, bits_per_byte, pretrain
from zhuzi.cli import cli
from zhuzi.errors import InputError, MismatchError, OutputExistsError, RecipeError
from zhuzi.eval import compare_bits
from zhuzi.model import extend_model, merge_adapter
from zhuzi.model.folder import EMBEDDING, ModelFolder
from zhuzi.model.positions import KINDS, Rope, positions, rope_of
from zhuzi.train.checks import require_possible

Recipes = Callable[..., Any]


def scaled(model: Path, folder: Path, rope: str) -> Path:
    extend_model(model, None, folder / rope.replace(":", "-"), rope=rope)
    return folder / rope.replace(":", "-")


def logits(model: Any, length: int) -> torch.Tensor:
    ids = torch.randint(400, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return found


@pytest.fixture(scope="module")
def older(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a config.json as transformers 4 writes it."""
    folder = tmp_path_factory.mktemp("older") / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", ["model", "older"])
def test_transformers_computes_the_same(
    kind: str, spelling: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As a model that transformers builds from its own settings, below and beyond the old positions."""
    base = request.getfixturevalue(spelling)
    out = scaled(base, tmp_path, f"{kind}:4")
    folder = ModelFolder.open(out)
    assert positions(folder.config) == 1024
    theirs: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    config = AutoConfig.from_pretrained(base)
    if kind in ("yarn", "llama3"):
        theirs["original_max_position_embeddings"] = 256
        config.max_position_embeddings = 1024
    if kind == "llama3":
        theirs |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config.rope_parameters = theirs
    wanted = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32).eval()
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for length in (40, 600):
        ours = logits(folder.load(torch.float32), length)
        assert torch.equal(ours, logits(wanted, length))
        if kind != "dynamic" or length > 256:
            assert not torch.allclose(ours, logits(plain, length), atol=1e-4)
    for name in folder.tensors:
        assert torch.equal(folder.read(name), ModelFolder.open(base).read(name)), name
    assert folder.original_rows == ModelFolder.open(base).original_rows
    assert Tokenizer.from_dir(out).fingerprint == Tokenizer.from_dir(base).fingerprint


def test_new_rows_and_positions_at_once(base_model: Path, new_tokenizer: Path, tmp_path: Path) -> None:
    made = extend_model(base_model, new_tokenizer, tmp_path / "out", rope="linear:4")
    assert (made.new_rows, made.positions, made.rope) == (410, 1024, "linear:4")
    again = extend_model(tmp_path / "out", None, tmp_path / "again", rope="yarn:8")
    assert again.positions == 2048  # of the first 256
    assert ModelFolder.open(tmp_path / "again").original_rows == 400
    assert extend_model(tmp_path / "again", None, tmp_path / "back", rope="linear:2").positions == 512
    with pytest.raises(MismatchError, match="nothing to extend"):
        extend_model(tmp_path / "out", new_tokenizer, tmp_path / "no")


def test_rows_of_an_unknown_first_base_stay_unknown(base_model: Path, tmp_path: Path) -> None:
    assert ModelFolder.open(scaled(base_model, tmp_path, "linear:2")).original_rows is None


def test_an_adapter_needs_nothing_but_its_base(
    model: Path, stage2: Recipes, tmp_path: Path, corpus: Path
) -> None:
    """Trained, loaded by plain PEFT, merged, chatted with and measured: the same angles everywhere."""
    long = scaled(model, tmp_path, "linear:4")
    recipe = stage2(model=str(long), sequence_length=300, base_bits=16, steps=1, batch_size=1,
                    micro_batch_size=1, corpus=corpus)  # fmt: skip
    run = pretrain(recipe)
    record = json.loads((run.result / "zhuzi.json").read_text())
    assert record["base"]["rope"] == rope_of(ModelFolder.open(long).config)
    plain = AutoModelForCausalLM.from_pretrained(long, dtype=torch.float32)
    adapted = logits(PeftModel.from_pretrained(plain, run.result).eval(), 400)
    merge_adapter(long, run.result, tmp_path / "merged")
    merged = ModelFolder.open(tmp_path / "merged")
    assert rope_of(merged.config) == rope_of(ModelFolder.open(long).config)
    assert positions(merged.config) == 1024
    assert torch.allclose(logits(merged.load(torch.float32), 400), adapted, atol=1e-2)
    chat = Chat.from_dir(tmp_path / "merged")
    assert bits_per_byte(chat.model, chat.tokenizer, ["天地" * 200], context=1024).tokens > 256
    for wrong in (model, scaled(model, tmp_path, "linear:2")):
        with pytest.raises(MismatchError, match=r"made on another RoPE \(linear:4.*merge it into"):
            merge_adapter(wrong, run.result, tmp_path / "no")
    text = tmp_path / "zh.txt"
    text.write_text("天地人和" * 300)
    found = compare_bits([long, run.result], [text], context=600)
    assert found.measured[0][0].per_byte > 0
    # An adapter whose record does not tell the RoPE, as those of earlier versions.
    del record["base"]["rope"]
    (run.result / "zhuzi.json").write_text(json.dumps(record))
    merge_adapter(long, run.result, tmp_path / "earlier")


def test_a_stage_without_lora_keeps_it(model: Path, stage1: Recipes, tmp_path: Path) -> None:
    long = scaled(model, tmp_path, "yarn:2")
    made = pretrain(stage1(model=str(long), steps=1, sequence_length=300, batch_size=1, micro_batch_size=1))
    assert rope_of(ModelFolder.open(made.result).config) == rope_of(ModelFolder.open(long).config)


def test_a_run_is_resumed_with_the_same_rope_only(model: Path, stage1: Recipes, tmp_path: Path) -> None:
    """The weights are the same, so no fingerprint tells."""
    pretrain(stage1(steps=2))
    with pytest.raises(OutputExistsError, match=r"RoPE \(default .* there, linear:2 .* now\) differs"):
        pretrain(stage1(steps=2, model=str(scaled(model, tmp_path, "linear:2"))))
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    del recorded["rope"]  # begun by an earlier version
    (tmp_path / "run" / "run.json").write_text(json.dumps(recorded))
    assert pretrain(stage1(steps=2)).steps == 2


def test_a_longer_sequence_names_the_remedy(model: Path, stage1: Recipes) -> None:
    folder = ModelFolder.open(model)
    with pytest.raises(RecipeError, match=r"257 exceeds the 256 positions.*--rope linear:2 --out NEW"):
        require_possible(stage1(sequence_length=257), folder)
    with pytest.raises(RecipeError, match=r"--rope linear:4 "):
        require_possible(stage1(sequence_length=1024), folder)


def test_the_command(model: Path, tmp_path: Path) -> None:
    words = ["model", "extend", "--model", str(model), "--out", str(tmp_path / "long")]
    done = CliRunner().invoke(cli, [*words, "--rope", "linear:4"])
    assert done.exit_code == 0 and "RoPE is scaled (linear:4): 1,024 positions" in done.output
    for wrong in ("linear", "linear:1", "linear:inf", "linear:x", "longrope:4", "4"):
        refused = CliRunner().invoke(cli, [*words, "--rope", wrong])
        assert refused.exit_code == 2 and "as in linear:4" in refused.output
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2 and "'--tokenizer', or '--rope'" in refused.output
    with pytest.raises(ValueError, match=r'nothing to do: give `tokenizer`, or rope="linear:4"'):
        extend_model(model, None, tmp_path / "none")


def test_configs_that_cannot_be_scaled(model: Path, tmp_path: Path) -> None:
    config = ModelFolder.open(model).config
    nested = {**config, "rope_parameters": {"full_attention": {"rope_type": "default"}}}
    with pytest.raises(InputError, match="RoPE for each kind of layer"):
        Rope("linear", 2).settings(nested)
    without = {key: value for key, value in config.items() if key != "max_position_embeddings"}
    with pytest.raises(InputError, match="no max_position_embeddings"):
        Rope("linear", 2).settings(without)


def test_both_spellings_are_one(model: Path, older: Path) -> None:
    ours, theirs = (ModelFolder.open(path).config for path in (model, older))
    assert rope_of(ours) == rope_of(theirs)
    for kind in KINDS:
        apart = [copy.deepcopy(config) | Rope(kind, 2.0).settings(config) for config in (ours, theirs)]
        assert rope_of(apart[0]) == rope_of(apart[1]) != rope_of(ours)
    assert rope_of(ours | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) != rope_of(ours)


def test_old_rows_are_untouched(model: Path, tmp_path: Path) -> None:
    out = ModelFolder.open(scaled(model, tmp_path, "dynamic:2"))
    assert out.fingerprint == ModelFolder.open(model).fingerprint
    assert torch.equal(out.read(EMBEDDING), ModelFolder.open(model).read(EMBEDDING))
