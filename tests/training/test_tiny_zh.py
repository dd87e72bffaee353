"""`recipes/tiny-zh`: the comparison with and without new pieces, on a base and a text that take seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import zhuzi
from scripts import load_script

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-zh"
DATA = Path(zhuzi.__file__).parent / "demo" / "data"
ARMS = ["plain", "extended-equal-bytes", "extended-equal-compute"]


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The script on the demo's Chinese, small; its English is a file beside the run's folder."""
    english = out.with_name("en.jsonl")
    if not english.exists():
        lines = (DATA / "en.jsonl").read_text("utf-8").splitlines(keepends=True)
        english.write_text("".join(lines[:20]), "utf-8")
    script = [sys.executable, str(RECIPE / "run.py"), str(DATA / "zh.jsonl"), "--english", str(english)]
    small = ["--out", str(out), "--bytes", "20e3", "--seeds", "1", "--hold-out", "20"]
    return subprocess.run([*script, *small, *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def base(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True, num_key_value_heads=2)


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-zh") / "run"
    done = run(out, "--base", str(base))
    assert not done.returncode, done.stderr
    return out


def facts_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "tiny-zh.json").read_text("utf-8"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    return load_script(RECIPE / "run.py", "tiny_zh")


def test_the_arms_see_equal_bytes_or_take_equal_compute(finished: Path) -> None:
    plain, same, more = (run for run in facts_of(finished)["runs"])
    assert [plain["arm"], same["arm"], more["arm"]] == ARMS
    assert plain["text_bytes"] == same["text_bytes"]
    assert same["tokens"] < plain["tokens"] and same["operations"] < plain["operations"]
    one_step = same["operations"] / same["steps"]
    assert abs(more["operations"] - plain["operations"]) <= one_step
    assert more["bytes_seen"] > 1.2 * same["bytes_seen"]
    assert same["rows"] == more["rows"] == plain["rows"] + facts_of(finished)["new_pieces"]


def test_the_operations_are_those_of_the_mfu(finished: Path, base: Path, script: ModuleType) -> None:
    from zhuzi.model.folder import ModelFolder
    from zhuzi.train import load_recipe
    from zhuzi.train.base import load_for_training
    from zhuzi.train.speed import flops_per_token

    for arm, model in (("plain", base), (ARMS[1], finished / "seed-0" / "extended")):
        folder = ModelFolder.open(model)
        recipe = load_recipe(finished / "seed-0" / f"{arm}.yaml")
        counted = flops_per_token(load_for_training(folder, recipe), script.CONTEXT)
        assert script.operations(base, folder.rows) == counted


def test_a_config_that_names_no_key_value_heads_has_as_many_as_heads(
    base: Path, tmp_path: Path, script: ModuleType
) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    counted = []
    for kv in ({"num_key_value_heads": config["num_attention_heads"]}, {"num_key_value_heads": None}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **kv}))
        counted.append(script.operations(tmp_path, 400))
    assert counted[0] == counted[1]


def test_what_cannot_be_compared_is_refused_in_a_line(base: Path, tmp_path: Path) -> None:
    for options, said in (  # and the folder is still free for the command that was meant
        (("--held-out", "absent.jsonl"), r"run\.py: absent\.jsonl"),
        (("--hold-out", "100000"), r"--hold-out 100000 leaves \d+ documents to train on and 0 to measure"),
        (("--hold-out", "0"), r"--hold-out 0 leaves 0 documents to train on and \d+ to measure"),
    ):
        done = run(tmp_path / "run", "--base", str(base), *options)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert re.match(said, done.stderr.splitlines()[-1]), done.stderr


def test_the_bits_are_those_of_the_merged_models(finished: Path, base: Path) -> None:
    from zhuzi.eval import compare_bits

    facts = facts_of(finished)
    texts = [finished / "texts" / f"{name}.jsonl" for name in ("same-sources", "english")]
    models = [base, *(finished / "seed-0" / f"{arm}-model" for arm in ARMS)]
    again = compare_bits(models, texts, context=256)
    for found, held in zip(again.measured, [facts["base"], *(r["bits"] for r in facts["runs"])], strict=True):
        assert [bits.per_byte for bits in found] == pytest.approx([held["same-sources"], held["english"]])


def test_no_held_out_document_is_trained_on(finished: Path) -> None:
    texts = {
        name: [
            json.loads(line)["text"] for line in (finished / "texts" / f"{name}.jsonl").open(encoding="utf-8")
        ]
        for name in ("pool", "same-sources")
    }
    assert texts["pool"] and texts["same-sources"]
    assert not any(whole.startswith(held) for held in texts["same-sources"] for whole in texts["pool"])


def test_page_table_and_picture_show_the_figures(finished: Path) -> None:
    facts = facts_of(finished)
    page, table = ((finished / name).read_text("utf-8") for name in ("index.html", "tiny-zh.md"))
    for arm in facts["runs"]:
        for bits in arm["bits"].values():
            assert f"{bits:.3f}" in page and f"{bits:.3f}" in table
    picture = (finished / "bits.svg").read_text("utf-8")
    assert picture.startswith("<svg") and "By compute" in picture


def test_a_run_resumes_and_refuses_another_question(finished: Path, base: Path) -> None:
    before = facts_of(finished)
    last = finished / "seed-0" / f"{ARMS[-1]}.json"
    last.unlink()  # as after a kill, between training and figures
    (finished / "seed-0" / f"{ARMS[-1]}-bits.json").unlink()
    done = run(finished, "--base", str(base))
    assert not done.returncode, done.stderr
    assert "seed 0: plain" not in done.stderr
    assert [r["bits"] for r in facts_of(finished)["runs"]] == [r["bits"] for r in before["runs"]]
    refused = run(finished, "--base", str(base), "--learning-rate", "0.5")
    assert refused.returncode == 1 and "was begun with learning-rate 0.01" in refused.stderr


def test_a_verdict_says_when_extension_does_not_win(script: ModuleType) -> None:
    results = script.results

    def facts(differences: list[float]) -> dict[str, Any]:
        runs = []
        for seed, by in enumerate(differences):
            runs.append({"arm": "plain", "seed": seed, "bits": {"same-sources": 3.0, "english": 2.0}})
            runs.append({"arm": ARMS[1], "seed": seed, "bits": {"same-sources": 3.0 + by, "english": 2.5}})
        return {"base": {"same-sources": 9.0, "english": 1.0}, "runs": runs}

    def verdict(*differences: float) -> tuple[bool, str]:
        won, text = results.verdict(facts(list(differences)), ARMS[1])
        return won, text[0]

    assert verdict(-0.25, -0.35) == (
        True,
        "extended, the same text: wins (2 seeds). Bits per byte against the base's pieces: "
        "Chinese, the same sources -0.300 ± 0.071.",
    )
    assert verdict(0.1)[0] is False and ": loses (1 seed)" in verdict(0.1)[1]
    assert verdict(-0.1, 0.1)[0] is False and "neither wins nor loses" in verdict(-0.1, 0.1)[1]


def test_a_model_of_llama2c_becomes_a_folder_that_tells_stories(reference: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    files = [reference / "weights" / name for name in ("stories260K.bin", "tok512.bin")]
    out = tmp_path / "stories260K"
    script = [sys.executable, str(RECIPE / "from_llama2c.py"), *map(str, files), str(out)]
    subprocess.run(script, capture_output=True, check=True)
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    ids = zhuzi.Tokenizer.from_dir(out).encode(story, add_bos=True)
    assert len(ids) < 40
    with torch.no_grad():
        live = AutoModelForCausalLM.from_pretrained(out)
        assert float(live(torch.tensor([ids]), labels=torch.tensor([ids])).loss) < 1.5


def test_the_page_of_the_docs_is_made_from_its_record(script: ModuleType) -> None:
    root = RECIPE.parents[1]
    facts = json.loads((root / "benches" / "tiny-zh.json").read_text("utf-8"))
    assert (root / "docs" / "tiny-zh.svg").read_text("utf-8") == script.results.picture(facts)
    page = (root / "docs" / "tiny-zh.md").read_text("utf-8")
    for line in script.results.markdown(facts).splitlines():
        if line.startswith("|") and not line.startswith("| new pieces"):
            assert line in page or set(line) <= set("|- ")
    arms = {name: script.results.verdict(facts, name)[0] for name in ARMS[1:]}
    assert all(arms.values()), "the page says that extension wins"


@pytest.mark.slow
def test_without_a_base_a_small_one_is_trained(mistral: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", "--base-steps", "2", "--new-pieces", "300")
    assert not done.returncode, done.stderr
    facts = facts_of(tmp_path / "run")
    assert [it["arm"] for it in facts["runs"]] == ARMS
    assert facts["new_pieces"] == 300 and facts["runs"][1]["rows"] == facts["runs"][0]["rows"] + 300
