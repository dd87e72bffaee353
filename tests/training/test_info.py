"""What a folder is, and what in it does not fit together."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from zhuzi import Tokenizer, encode_corpus, extend_model, pretrain, sft
from zhuzi.cli import cli
from zhuzi.corpus.dataset import Corpus
from zhuzi.errors import InputError, MismatchError
from zhuzi.model import convert_model, merge_adapter, model_info
from zhuzi.model.folder import ModelFolder
from zhuzi.train.recipe import PretrainRecipe, SftRecipe

Recipes = Callable[..., PretrainRecipe]


@pytest.fixture(scope="module")
def road(
    model: Path, corpus: Path, new_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of every kind: extended, stage 1, stage 2, merged."""
    out = tmp_path_factory.mktemp("road")
    settings = {
        "task": "pretrain", "model": str(model), "corpus": str(corpus), "output": str(out / "stage1"),
        "modules_to_save": ["embed_tokens"], "sequence_length": 16, "steps": 2, "batch_size": 2,
        "learning_rate": 1e-2, "save_every": 1,
    }  # fmt: skip
    first = pretrain(PretrainRecipe.model_validate(settings))
    settings |= {
        "model": str(first.result), "output": str(out / "stage2"), "vocabulary": "new-rows",
        "modules_to_save": ["embed_tokens", "lm_head"], "lora": {"targets": ["q_proj"]},
    }  # fmt: skip
    second = pretrain(PretrainRecipe.model_validate(settings))
    merge_adapter(first.result, second.result, out / "merged")
    return {
        "model": out / "merged", "adapter": second.result, "training run": out / "stage2",
        "corpus": corpus, "tokenizer": new_tokenizer, "trained": first.result,
    }  # fmt: skip


def test_a_merged_model_is_followed_back_to_the_first_base(
    road: dict[str, Path], base_model: Path, model: Path, corpus: Path, new_tokenizer: Path
) -> None:
    found = model_info(road["model"], verify=True)
    assert found.kind == "model" and not found.problems
    assert found.facts["rows"] == 410 and found.facts["rows of the first base"] == 400
    ours = ModelFolder.open(road["model"])
    assert found.facts["tokenizer"] == ours.tokenizer.fingerprint
    assert found.facts["parameters"] == sum(ours.read(name).numel() for name in ours.tensors)
    kinds = ["adapter", "corpus", "trained model", "corpus", "extended model", "tokenizer", "model"]
    assert [link.kind for link in found.chain] == kinds
    adapter, data, trained, same_data, extended, tokenizer, first = found.chain
    assert (data.found, data.of, same_data.of) == (str(corpus), adapter.found, trained.found)
    assert data.fingerprint == same_data.fingerprint == Corpus(corpus).fingerprint()
    assert (tokenizer.found, tokenizer.fingerprint) == (str(new_tokenizer), ours.tokenizer.fingerprint)
    assert adapter.found == str(road["adapter"]) and adapter.made_with["recipe"]["seed"] == 42
    assert adapter.made_with["data"] == trained.made_with["data"] and "torch" in adapter.made_with["versions"]
    assert (trained.found, extended.found, first.found) == tuple(
        map(str, (road["trained"], model, base_model))
    )
    assert all(link.same for link in found.chain)
    assert extended.rows == 410 and first.rows == 400


@pytest.mark.parametrize("kind", ["model", "adapter", "training run", "corpus", "tokenizer"])
def test_every_kind_is_known_and_fits(kind: str, road: dict[str, Path]) -> None:
    found = model_info(road[kind])
    assert (found.kind, found.problems) == (kind, ())
    assert found.facts["tokenizer"] == Tokenizer.from_dir(road["tokenizer"]).fingerprint
    shown = CliRunner().invoke(cli, ["model", "info", str(road[kind]), "--strict"])
    assert shown.exit_code == 0 and shown.output.startswith(f"{road[kind]}: {kind}\n")
    assert all(len(line) > 10 and "\n" not in line for line in shown.output.splitlines())
    made = json.loads(CliRunner().invoke(cli, ["model", "info", str(road[kind]), "--json"]).output)
    assert made["kind"] == kind and made["problems"] == []


def test_what_is_shown_says_something(
    model: Path, instructions: Path, road: dict[str, Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    """No options that were not given, no Jinja; and of a corpus no version that could be the program's."""
    recipe = SftRecipe.model_validate({
        "task": "sft", "model": str(model), "instructions": [str(instructions)], "output": tmp_path / "run",
        "lora": {"rank": 2, "targets": ["q_proj"], "rslora": True}, "sequence_length": 128, "steps": 1,
        "batch_size": 2, "learning_rate": 1e-2,
    })  # fmt: skip
    adapter = sft(recipe).result
    change_json(adapter / "zhuzi.json", counts=None)
    shown = CliRunner().invoke(cli, ["model", "info", str(adapter)]).output
    assert not re.search("None|False|jinja|default|counts", shown) and "rslora True" in shown
    assert re.search(r"^  template +name alpaca, end </s>$", shown, re.MULTILINE)

    (tmp_path / "zh.txt").write_text("天地玄黄\n")
    encoded = tmp_path / "corpus"
    encode_corpus([tmp_path / "zh.txt"], new_tokenizer, encoded)
    shown = CliRunner().invoke(cli, ["model", "info", str(encoded)]).output
    assert re.search(r"^  same bytes since +zhuzi 0\.1\.0$", shown, re.MULTILINE) and "version" not in shown
    made = shutil.copytree(road["trained"], tmp_path / "made")
    change_json(made / "zhuzi.json", trained_on=[{"path": str(encoded)}])
    shown = CliRunner().invoke(cli, ["model", "info", str(made)]).output
    assert f"{encoded}: corpus, the same bytes since zhuzi 0.1.0" in shown


def test_a_run_in_place_of_its_model(road: dict[str, Path], base_model: Path, tmp_path: Path) -> None:
    """The message names what the run made."""
    run = road["training run"]
    merge = f"zhuzi model merge --model {road['trained']} --adapter {run / 'adapter'} --out NEW"
    with pytest.raises(InputError, match=f"holds no config.json; it is a training run: .*{merge}"):
        extend_model(run, None, tmp_path / "no", rope="linear:2")
    first = Path(shutil.copytree(road["trained"].parent, tmp_path / "first"))
    with pytest.raises(InputError, match=f"it is a training run: name {first / 'model'}$"):
        extend_model(first, None, tmp_path / "no", rope="linear:2")
    shutil.rmtree(first / "model")
    with pytest.raises(InputError, match=f"name {first / 'model'}, which it has not made yet"):
        extend_model(first, None, tmp_path / "no", rope="linear:2")
    with pytest.raises(InputError, match=r"holds no config\.json; name the folder of a model"):
        extend_model(tmp_path, None, tmp_path / "no", rope="linear:2")


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("model", lambda d, r: change_json(d / "config.json", vocab_size=400), "says vocab_size 400"),
        ("model", lambda d, r: change_json(d / "config.json", eos_token_id=7), "eos_token_id 7, its tok"),
        ("model", lambda d, r: change_json(d / "zhuzi.json", rows=9), "made with another rows"),
        ("model", lambda d, r: change_json(d / "zhuzi.json", tokenizer="ab"), "made with another tokenizer"),
        ("model", lambda d, r: change_json(d / "zhuzi.json", original_rows=999), "original_rows is 999"),
        (
            "model",
            lambda d, r: change_json(d / "config.json", tie_word_embeddings=True),
            "two that are stored",
        ),
        ("model", lambda d, r: (d / "zhuzi.json").write_text("{"), "no JSON"),
        ("model", lambda d, r: (d / "model.safetensors").write_bytes(b"short"), "not a safetensors file"),
        ("model", lambda d, r: (d / "tokenizer.model").unlink(), "tokenizer.model"),
        ("model", lambda d, r: point(d, r["model"]), "its weights are not what was used here"),
        ("adapter", lambda d, r: point(d, r["first"]), "made on another number of rows"),
        ("adapter", lambda d, r: change_json(d / "adapter_config.json", r=8), "changed since it was trained"),
        ("training run", lambda d, r: change_json(d / "run.json", tokenizer="ab"), "not that of the run"),
        ("training run", lambda d, r: (d / "report.json").write_text("["), "no JSON"),
        ("tokenizer", lambda d, r: record_tokenizer(d), "its files were changed since it was made"),
        ("corpus", lambda d, r: next(d.glob("*.bin")).write_bytes(b""), "holds"),
    ],
)
def test_what_does_not_fit_is_named(
    kind: str,
    change: Callable[..., Any],
    problem: str,
    road: dict[str, Path],
    base_model: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "it"
    shutil.copytree(road[kind], folder)
    change(folder, {**road, "first": base_model})
    found = model_info(folder, verify=True)
    assert any(problem in said for said in found.problems), found.problems
    done = CliRunner().invoke(cli, ["model", "info", str(folder), "--verify", "--strict"])
    assert isinstance(done.exception, MismatchError) and "does not fit" in done.output


def point(folder: Path, base: Path) -> None:
    """Let the record name another base, with the fingerprint of the first."""
    record = json.loads((folder / "zhuzi.json").read_bytes())
    change_json(folder / "zhuzi.json", base={**record["base"], "path": str(base)})


def record_tokenizer(folder: Path) -> None:
    (folder / "zhuzi.json").write_text(
        '{"format": 1, "kind": "tokenizer", "zhuzi": "0", "fingerprint": "ab"}'
    )


def test_an_adapter_and_a_model_from_elsewhere(
    road: dict[str, Path], base_model: Path, tmp_path: Path
) -> None:
    """As pickles, which were converted; an adapter without a record tells only a path."""
    for kind, source, name in (
        ("adapter", road["adapter"], "adapter_model"),
        ("model", base_model, "model"),
    ):
        theirs = tmp_path / kind
        shutil.copytree(source, theirs)
        (theirs / "zhuzi.json").unlink(missing_ok=True)
        held = load_file(theirs / f"{name}.safetensors")
        (theirs / f"{name}.safetensors").unlink()
        torch.save(held, theirs / ("adapter_model.bin" if kind == "adapter" else "pytorch_model.bin"))
        convert_model(theirs, tmp_path / f"{kind}-converted")
        found = model_info(tmp_path / f"{kind}-converted", verify=True)
        assert (found.kind, found.problems) == (kind, ())
        (link,) = found.chain
        assert (link.found, link.kind) == (str(theirs), kind)
        assert found.facts.get("record", "none").startswith("none")


def test_bases_that_are_gone_or_name_each_other_end_the_chain(road: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(road["trained"], folder)
    point(folder, tmp_path / "gone")
    data, link = model_info(folder, verify=True).chain
    assert data.kind == "corpus"
    assert (link.kind, link.found, link.same) == ("not there", None, None) and link.fingerprint
    point(folder, folder)
    assert len(model_info(folder).chain) == 2
    for trained_on in ([3], 3, {"path": 3}):
        damaged = {"base": {"path": 3, "rows": "many"}, "adapter": {"a": 1}, "trained_on": trained_on}
        change_json(folder / "zhuzi.json", **damaged)
        assert model_info(folder).chain == ()


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a model, an adapter, a training run"):
        model_info(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        model_info(tmp_path / "absent")
