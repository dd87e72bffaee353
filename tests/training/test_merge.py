"""Merging: the same logits, the same bytes where no adapter is, and adapters that do not belong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from zhuzi import Chat, Tokenizer, extend_model, merge_adapter, pretrain
from zhuzi.errors import InputError, MismatchError, OutputExistsError, TrainingError, ZhuziError
from zhuzi.model import merge
from zhuzi.model.folder import EMBEDDING, HEAD, ModelFolder


@pytest.fixture(scope="module")
def adapter(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from zhuzi.train.recipe import PretrainRecipe

    recipe = PretrainRecipe.model_validate({
        "task": "pretrain", "model": str(model), "corpus": corpus,
        "output": tmp_path_factory.mktemp("runs") / "run",
        "lora": {"rank": 4, "targets": ["q_proj", "v_proj"]}, "base_bits": 8,
        "sequence_length": 16, "steps": 8, "batch_size": 4, "learning_rate": 3e-2,
    })  # fmt: skip
    return pretrain(recipe).result


def test_merge(model: Path, adapter: Path, tmp_path: Path) -> None:
    report = merge_adapter(model, adapter, tmp_path / "out")
    assert report.difference <= 1e-4 and report.verified
    assert 0 < report.difference_stored < 1e-2
    assert (report.merged, report.replaced) == (4, 2)
    base, made = ModelFolder.open(model), ModelFolder.open(tmp_path / "out")
    changed = {name for name in base.tensors if not torch.equal(base.read(name), made.read(name))}
    attention = {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qv"}
    assert changed == attention | {EMBEDDING, HEAD}
    assert made.dtype == torch.float16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 410
    assert Tokenizer.from_dir(tmp_path / "out").fingerprint == base.tokenizer.fingerprint

    # By hand: W + (alpha / rank) B A, in fp32, then rounded.
    saved = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (saved[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    by_hand = base.read(f"{name}.weight").float() + 32 / 4 * b @ a
    assert torch.allclose(made.read(f"{name}.weight").float(), by_hand, atol=2e-3, rtol=1e-3)
    assert torch.equal(made.read(HEAD), saved["base_model.model.lm_head.weight"].half())


def test_tied(make_model: Callable[..., Path], stage2: Any, new_tokenizer: Path, tmp_path: Path) -> None:
    tied = make_model(tmp_path / "tied", rows=410, tokenizer=new_tokenizer, tie_word_embeddings=True)
    result = pretrain(stage2(model=str(tied), base_bits=16)).result
    report = merge_adapter(tied, result, tmp_path / "out")
    assert report.difference <= 1e-4 and report.difference_stored < 1e-2


def test_padding_rows_all_the_way(
    model: Path, stage1: Callable[..., Any], stage2: Callable[..., Any], tmp_path: Path
) -> None:
    """448 rows for 410 ids: trained, merged and talked with as a model without padding."""
    padded = extend_model(model, model, tmp_path / "padded", pad_to_multiple=64).out
    first = pretrain(stage1(model=str(padded), output=tmp_path / "first")).result
    adapter = pretrain(stage2(model=str(first))).result
    merge_adapter(first, adapter, tmp_path / "out")
    made = ModelFolder.open(tmp_path / "out")
    assert (made.rows, made.tokenizer.vocab_size, made.config["vocab_size"]) == (448, 410, 448)
    answer = Chat.from_dir(made.path).reply("你好", max_new_tokens=20, temperature=9.0, seed=1)
    assert "".join(answer)  # an id behind the tokenizer's would be an IndexError


def test_without_record(model: Path, adapter: Path, tmp_path: Path) -> None:
    foreign = Path(shutil.copytree(adapter, tmp_path / "foreign"))
    (foreign / "zhuzi.json").unlink()
    with pytest.raises(MismatchError, match="merge it with unverified=True"):
        merge_adapter(model, foreign, tmp_path / "out")
    report = merge_adapter(model, foreign, tmp_path / "out", unverified=True)
    assert not report.verified and (report.merged, report.replaced) == (4, 2)


@pytest.mark.parametrize("record", [True, False])
def test_a_mangled_adapter_is_refused(model: Path, adapter: Path, tmp_path: Path, record: bool) -> None:
    """With a record by its digests; without one where config and tensors disagree."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    for number, (change, message) in enumerate([
        ({"peft_type": "LORA"}, "has no r, lora_alpha, target_modules"),
        ({**config, "target_modules": ["q_proj"]}, "damaged|disagree about .*v_proj"),
        ({**config, "r": 2}, "damaged|PEFT cannot load it"),
        ({**config, "target_modules": ["query"]}, "damaged|PEFT cannot load it"),
        ({**config, "lora_alpha": 1} if record else {**config, "r": "x"}, "damaged|PEFT cannot load it"),
    ]):  # fmt: skip
        mangled = Path(shutil.copytree(adapter, tmp_path / str(number)))
        (mangled / "adapter_config.json").write_text(json.dumps(change))
        if not record:
            (mangled / "zhuzi.json").unlink()
        with pytest.raises(InputError, match=message):
            merge_adapter(model, mangled, tmp_path / "out", unverified=True)
        assert not (tmp_path / "out").exists()


def test_changed_weights_are_refused(model: Path, adapter: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(adapter, tmp_path / "changed"))
    raw = bytearray((changed / "adapter_model.safetensors").read_bytes())
    raw[-1] ^= 1
    (changed / "adapter_model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="damaged, or changed since it was trained"):
        merge_adapter(model, changed, tmp_path / "out")


def test_an_output_that_holds_an_input(model: Path, adapter: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(model, tmp_path / "models" / "base"))
    shutil.copy(model / "zhuzi.json", tmp_path / "models")
    for out in (base, base.parent):
        with pytest.raises(OutputExistsError, match="is read here"):
            merge_adapter(base, adapter, out, overwrite=True)


def test_refused(
    model: Path,
    base_model: Path,
    adapter: Path,
    make_model: Callable[..., Path],
    new_tokenizer: Path,
    tmp_path: Path,
) -> None:
    def refused(kind: type[ZhuziError], message: str, base: Path, folder: Path) -> None:
        with pytest.raises(kind, match=message):
            merge_adapter(base, folder, tmp_path / "out", unverified=True)
        assert not (tmp_path / "out").exists()

    def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        folder = Path(shutil.copytree(adapter, tmp_path / name))
        (folder / "zhuzi.json").unlink()
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    refused(MismatchError, "another number of rows", base_model, adapter)
    other = make_model(tmp_path / "other", rows=410, tokenizer=new_tokenizer)
    refused(MismatchError, "another base model", other, adapter)
    record = json.loads((adapter / "zhuzi.json").read_text())
    relabelled = Path(shutil.copytree(adapter, tmp_path / "relabelled"))
    (relabelled / "zhuzi.json").write_text(json.dumps({**record, "tokenizer": "other"}))
    refused(MismatchError, "another tokenizer", model, relabelled)

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    refused(
        MismatchError,
        "has no place",
        model,
        changed("a", lambda t: t.update({"x.lora_A.weight": t[name].clone()})),
    )
    refused(MismatchError, "it was made on a model of another size", model,
            changed("b", lambda t: t.update({name: t[name][:, 1:].contiguous()})))  # fmt: skip
    refused(MismatchError, "give the base with as many rows", base_model, changed("c", lambda t: None))
    refused(TrainingError, "logits differ by nan", model, changed("d", lambda t: t[name].fill_(float("nan"))))
    refused(InputError, "no adapter_config.json", model, model)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        merge_adapter(model, adapter, tmp_path / "full")


def test_a_merge_that_differs_is_not_written(
    model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_difference", lambda ours, theirs: 2e-4)
    with pytest.raises(TrainingError, match=r"differ by 2\.0e-04"):
        merge_adapter(model, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "save", "merged"),
    [
        ({}, {"save_embedding_layers": True}, 4),
        ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, {}, 4),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {"save_embedding_layers": False}, 3),
        ({"use_dora": True}, {}, 4),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 16}}, {}, 4),
        ({"target_modules": "all-linear", "bias": "lora_only"}, {}, 14),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_adapters_of_others(
    make_model: Callable[..., Path],
    tmp_path: Path,
    settings: dict[str, Any],
    save: dict[str, Any],
    merged: int,
    tied: bool,
) -> None:
    """What PEFT saved by itself is merged as PEFT merges it: the same matrices, rounded to 16 bits."""
    base = make_model(tmp_path / "base", tie_word_embeddings=tied, attention_bias=True)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        **{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **settings}
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or (save and "embed" in name) or "bias" in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter", **save)
    if tied and "embed_tokens" in settings.get("target_modules", ()):
        with pytest.raises(InputError, match=r"which in .*base are one matrix"):
            merge_adapter(base, tmp_path / "adapter", tmp_path / "out", unverified=True)
        return
    report = merge_adapter(base, tmp_path / "adapter", tmp_path / "out", unverified=True)
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert (report.merged, report.replaced) == (merged, sum("lora_" not in name for name in saved))

    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().state_dict()
    before, made = ModelFolder.open(base), ModelFolder.open(tmp_path / "out")
    assert any(not torch.equal(before.read(name), made.read(name)) for name in made.tensors)
    for name in made.tensors:
        assert torch.equal(made.read(name), theirs[name].half()), name


def test_adapters_that_are_not_merged(base_model: Path, adapter: Path, model: Path, tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(ZhuziError, match=message):
            merge_adapter(model, folder, tmp_path / "out", unverified=True)
        assert not (tmp_path / "out").exists()

    def copied(name: str) -> Path:
        folder = Path(shutil.copytree(adapter, tmp_path / name))
        (folder / "zhuzi.json").unlink()
        return folder

    pickled = copied("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(pickled, r"holds only adapter_model\.bin, a pickle .*zhuzi model convert --model .*pickled")
    other = copied("other") / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**load_file(other), name.replace("lora_A", "lora_B.bias"): torch.zeros(4)}, other)
    refused(other.parent, "has no place .* of a kind that is not merged")


def test_a_merge_beyond_16_bits_is_not_written(model: Path, adapter: Path, tmp_path: Path) -> None:
    foreign = Path(shutil.copytree(adapter, tmp_path / "foreign"))
    (foreign / "zhuzi.json").unlink()
    tensors = load_file(foreign / "adapter_model.safetensors")
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] += 1e6
    save_file(tensors, foreign / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match="rounded to float16, the logits are not finite"):
        merge_adapter(model, foreign, tmp_path / "out", unverified=True)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named(
    model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the libraries are loaded, which takes longer than to look."""
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    monkeypatch.setattr(merge, "_merge", None)
    with pytest.raises(OSError, match=r"needs [\d,]+ bytes, and 1,000 are free") as caught:
        merge_adapter(model, adapter, tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_imports_nothing_heavy(
    model: Path, base_model: Path, adapter: Path, old_tokenizer: Path, tmp_path: Path
) -> None:
    """What neither weights nor logits are needed for is refused before seconds of imports."""
    code = """
import sys
from zhuzi import extend_model, merge_adapter
from zhuzi.errors import ZhuziError
model, base, adapter, tokenizer, out = sys.argv[1:]
for call in (
    lambda: merge_adapter(base, adapter, out),
    lambda: merge_adapter(model, model, out),
    lambda: merge_adapter("/absent", adapter, out),
    lambda: extend_model(model, tokenizer, out),
):
    try:
        call()
    except ZhuziError as error:
        print("refused:", error)
print([m for m in ("torch", "transformers", "peft") if m in sys.modules])
"""
    arguments = [str(p) for p in (model, base_model, adapter, old_tokenizer, tmp_path / "out")]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    *refused, heavy = run.stdout.splitlines()
    assert len(refused) == 4 and heavy == "[]", run.stdout
