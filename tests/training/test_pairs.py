"""What belongs together, command by command: a wrong pair is refused by name before any weight is loaded."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner
from test_exam import HEAD, ROWS, table
from tiny import CHINESE, append_pieces, write_corpus

from zhuzi import Tokenizer, extend_model, merge_adapter, pretrain, sft
from zhuzi.cli import cli
from zhuzi.errors import ZhuziError, message
from zhuzi.model.adapter import AdapterFolder
from zhuzi.model.folder import ModelFolder
from zhuzi.model.weights import ITEM
from zhuzi.record.disk import sha256
from zhuzi.record.provenance import write_record
from zhuzi.train.recipe import PretrainRecipe, SftRecipe

World = dict[str, Path]


class Loaded(BaseException):
    """Weights were about to be read: every check was passed."""


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> NoReturn:
        raise Loaded

    monkeypatch.setattr(ModelFolder, "load", loaded)
    monkeypatch.setattr(ModelFolder, "copy", loaded)
    for place in (
        "zhuzi.model.merge._merge",
        "zhuzi.model.export.export.write_weights",
        "zhuzi.model.export.export.write_model",
    ):
        monkeypatch.setattr(place, loaded)


def _tuning(world: World, model: str, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "task": "sft", "model": str(world[model]), "instructions": str(world["instructions"]),
        "output": str(output), "lora": {"rank": 2, "targets": ["q_proj"]}, "sequence_length": 128,
        "steps": 3, "batch_size": 2, "learning_rate": 1e-2, **changes,
    }  # fmt: skip


def _training(world: World, model: str, corpus: Any, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "task": "pretrain", "model": str(world[model]), "corpus": corpus, "output": str(output),
        "lora": {"rank": 2, "targets": ["q_proj"]}, "sequence_length": 16, "steps": 3, "batch_size": 2,
        "learning_rate": 1e-2, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def world(
    base_model: Path,
    model: Path,
    corpus: Path,
    instructions: Path,
    old_tokenizer: Path,
    new_tokenizer: Path,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    """Folders that belong together, and some that do not."""
    out = tmp_path_factory.mktemp("world")
    it = {
        "base": base_model, "model": model, "corpus": corpus, "instructions": instructions,
        "old tokenizer": old_tokenizer, "new tokenizer": new_tokenizer,
    }  # fmt: skip
    it["first"] = pretrain(PretrainRecipe.model_validate(_training(it, "model", corpus, out / "run"))).result
    it["run"] = out / "run"
    it["merged"] = merge_adapter(model, it["first"], out / "merged").out
    it["second"] = sft(SftRecipe.model_validate(_tuning(it, "merged", out / "tuned"))).result
    it["tuned run"] = out / "tuned"
    stage1 = _training(it, "model", corpus, out / "stage1", lora=None, modules_to_save=["embed_tokens"])
    it["trained"] = pretrain(PretrainRecipe.model_validate(stage1)).result

    # The same pieces in another order: as many ids, other meanings.
    it["other tokenizer"] = out / "other-tokenizer"
    shutil.copytree(new_tokenizer, it["other tokenizer"])
    pieces = append_pieces((old_tokenizer / "tokenizer.model").read_bytes(), CHINESE[::-1])
    (it["other tokenizer"] / "tokenizer.model").write_bytes(pieces)
    it["swapped"] = out / "swapped"
    shutil.copytree(model, it["swapped"])
    shutil.copy(it["other tokenizer"] / "tokenizer.model", it["swapped"])
    it["strange tokenizer"] = out / "strange-tokenizer"
    shutil.copytree(new_tokenizer, it["strange tokenizer"])
    pieces = (new_tokenizer / "tokenizer.model").read_bytes().replace("▁the".encode(), "▁tha".encode())
    (it["strange tokenizer"] / "tokenizer.model").write_bytes(pieces)
    it["shrunk"] = make_model(out / "shrunk", rows=400, tokenizer=new_tokenizer)
    it["other base"] = make_model(out / "other", rows=410, tokenizer=new_tokenizer, attention_bias=True)
    it["larger tokenizer"] = out / "larger-tokenizer"
    Tokenizer.from_dir(model).save(it["larger tokenizer"])
    added = {"[PAD]": 409, "<|user|>": 410}
    (it["larger tokenizer"] / "added_tokens.json").write_text(json.dumps(added))
    it["grown"] = extend_model(model, it["larger tokenizer"], out / "grown").out

    it["unrecorded"] = Path(shutil.copytree(it["first"], out / "unrecorded"))
    (it["unrecorded"] / "zhuzi.json").unlink()
    it["orphan"] = Path(shutil.copytree(it["first"], out / "orphan"))
    record = json.loads((it["orphan"] / "zhuzi.json").read_bytes())
    record["base"]["path"] = str(out / "gone")
    (it["orphan"] / "zhuzi.json").write_text(json.dumps(record))

    tokenizer = Tokenizer.from_dir(old_tokenizer)
    for name, fingerprint, last in (
        ("old corpus", tokenizer.fingerprint, 9),
        ("other corpus", Tokenizer.from_dir(model).fingerprint, 8),
    ):
        it[name] = out / name.replace(" ", "-")
        it[name].mkdir()
        write_corpus(it[name], [[[5, 6, last] * 20]], fingerprint=fingerprint, vocab_size=400)
    it["other instructions"] = out / "other.json"
    it["other instructions"].write_text('[{"instruction": "a", "output": "b"}]')
    it["text"] = out / "text.txt"
    it["text"].write_text("天地\n")
    with zipfile.ZipFile(out / "ceval.zip", "w") as archive:
        archive.writestr("val/law_val.csv", table(ROWS, HEAD))
    it["exam"] = out / "ceval.zip"
    for name, fingerprint in (("figures", ModelFolder.open(model).fingerprint), ("other figures", "ab")):
        it[name] = out / f"{name.replace(' ', '-')}.json"
        it[name].write_text(
            json.dumps(
                {"kind": "exam", "exam": "C-Eval", "fingerprint": fingerprint, "split": "val", "shots": 0,
                 "by": "likelihood", "acc": 0.5}
            )
        )  # fmt: skip
    return it


def _resumed(path: Path, run: Path) -> Path:
    """A copy of a finished run that looks as if it had been stopped."""
    shutil.copytree(run, path)
    (path / "report.json").unlink()
    return path


@dataclass
class Case:
    """Words of a command, with names of `World` in braces; what it is refused with, or nothing."""

    words: str
    refused: str | None = None


def train(model: str, *corpora: str, run: str = "", refused: str | None = None) -> Case:
    return Case(f"pretrain {model},{'+'.join(corpora)},{run}", refused)


def tune(model: str, instructions: str = "instructions", run: str = "", refused: str | None = None) -> Case:
    return Case(f"sft {model},{instructions},{run}", refused)


def merge(model: str, *adapters: str, more: str = "", refused: str | None = None) -> Case:
    named = " ".join(f"--adapter {{{adapter}}}" for adapter in adapters)
    return Case(f"model merge --model {{{model}}} {named} {more} --out OUT", refused)


ADAPTER = "an adapter; merge it first"
SWAPPED = "holds another tokenizer .* than the one its weights were made with"
SHRUNK = "its tokenizer has 40[0-9] ids, its embedding 400 rows|has the id 409, its embedding 400 rows"
CORPUS = "encoded by another tokenizer"

CASES = [
    train("model", "corpus"),
    train("model", "corpus", "other corpus"),
    train("trained", "corpus"),
    train("merged", "corpus"),
    train("model", "old corpus", refused=f"old-corpus: {CORPUS}"),
    train("model", "corpus", "old corpus", refused=f"old-corpus: {CORPUS}"),
    train("base", "corpus", refused=CORPUS),
    train("grown", "corpus", refused=CORPUS),
    train("swapped", "corpus", refused=SWAPPED),
    train("shrunk", "corpus", refused=SHRUNK),
    train("first", "corpus", refused=ADAPTER),
    train("model", "corpus", run="run"),
    train("model", "other corpus", run="run", refused="run whose data .*corpus.*there, .*other-corpus.* now"),
    train("model", "corpus", "other corpus", run="run", refused="run whose data"),
    train("other base", "corpus", run="run", refused=r"run whose model \(.* there, .*other now\) differs"),
    train("trained", "corpus", run="run", refused=r"run whose model \("),
    tune("merged"),
    tune("base"),
    tune("first", refused=ADAPTER),
    tune("swapped", refused=SWAPPED),
    tune("shrunk", refused=SHRUNK),
    tune("merged", run="tuned run"),
    tune("merged", "other instructions", run="tuned run", refused="run whose data .*records.*other"),
    tune("model", run="tuned run", refused=r"run whose model \("),
    tune("grown", run="tuned run", refused=r"run whose tokenizer \("),
    Case("model extend --model {base} --tokenizer {new tokenizer} --out OUT"),
    Case("model extend --model {merged} --tokenizer {larger tokenizer} --out OUT"),
    Case("model extend --model {model} --tokenizer {old tokenizer} --out OUT", "rows are never removed"),
    Case("model extend --model {base} --tokenizer {strange tokenizer} --out OUT", "row trained for it would"),
    Case("model extend --model {model} --tokenizer {other tokenizer} --out OUT", "row trained for it would"),
    Case("model extend --model {model} --tokenizer {new tokenizer} --out OUT", "nothing to extend"),
    Case("model extend --model {swapped} --tokenizer {larger tokenizer} --out OUT", SWAPPED),
    Case("model extend --model {first} --tokenizer {larger tokenizer} --out OUT", ADAPTER),
    merge("model", "first"),
    merge("merged", "second"),
    merge("model", "first", "second"),
    merge("model", "unrecorded", more="--unverified"),
    merge("base", "first", refused=r"another number of rows \(410\) than that of .*merge it into .*model"),
    merge("grown", "first", refused=r"another number of rows \(410\) than that of .*grown \(411\)"),
    merge("other base", "first", refused="another base model .* merge it into .*model"),
    merge("trained", "first", refused="another base model"),
    merge("swapped", "first", refused="another tokenizer"),
    merge("merged", "first", refused="adapter: already merged into .*merged, whose record names it"),
    merge("merged", "unrecorded", more="--unverified", refused="unrecorded: already merged into .*merged"),
    merge("model", "unrecorded", refused="holds no zhuzi.json"),
    merge("model", "second", refused="another base model .* merge it into .*merged"),
    merge("model", "second", "first", refused="another base model"),
    merge("model", "first", "first", refused="in the order in which they were trained"),
    merge("model", "first", "second", "first", refused="in the order in which they were trained"),
    merge("model", "model", refused="holds no adapter_config.json"),
    Case("model export --model {model} --format hf --out OUT"),
    Case("model export --model {model} --format hf --figures {figures} --out OUT"),
    Case(
        "model export --model {model} --format hf --figures {other figures} --out OUT", "no figures of this"
    ),
    Case("model export --model {merged} --format hf --figures {figures} --out OUT", "no figures of"),
    Case("model export --model {first} --format hf --out OUT", ADAPTER),
    Case("model export --model {swapped} --format hf --out OUT", SWAPPED),
    Case("model export --model {shrunk} --format hf --out OUT", SHRUNK),
    *(
        Case(f"{command} --model {{{name}}}{more}", refused)
        for command, more in (
            ("chat", ""),
            ("serve", " --port 0"),
            ("eval bits", " --context 64 --corpus {text}"),
            ("eval ceval", " --data {exam}"),
        )
        for name, refused in (("merged", None), ("swapped", SWAPPED), ("shrunk", SHRUNK))
    ),
    Case("chat --model {first}", ADAPTER),
    Case("serve --model {first} --port 0", ADAPTER),
    *(
        Case(f"{command} --model {{{adapter}}} {base} {more}", refused)
        for command, more in (("eval bits", "--context 64 --corpus {text}"), ("eval ceval", "--data {exam}"))
        for adapter, base, refused in (
            ("first", "", None),
            ("second", "", None),
            ("first", "--base {model}", None),
            ("unrecorded", "--base {model}", None),
            ("first", "--base {base}", "another number of rows"),
            ("first", "--base {grown}", "another number of rows"),
            ("first", "--base {other base}", "another base model"),
            ("first", "--base {swapped}", SWAPPED),
            ("first", "--base {merged}", "already merged into"),
            ("second", "--base {model}", "another base model"),
            ("orphan", "", "its base: .*gone.*name the base with --base"),
        )
    ),
    Case("corpus show {corpus} 0 --tokenizer {old tokenizer}", CORPUS),
    Case("corpus show {corpus} 0 --tokenizer {swapped}", CORPUS),
    Case("corpus stats {corpus} --tokenizer {old tokenizer}", CORPUS),
]


def _words(case: Case, world: World, tmp_path: Path) -> list[str]:
    command, _, rest = case.words.partition(" ")
    if command in ("pretrain", "sft"):
        model, data, run = rest.split(",")
        output = _resumed(tmp_path / "run", world[run]) if run else tmp_path / "run"
        if command == "sft":
            recipe = _tuning(world, model, output, instructions=str(world[data]))
        else:
            recipe = _training(world, model, [str(world[name]) for name in data.split("+")], output)
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        return [command, str(path)]
    text = case.words.replace("OUT", str(tmp_path / "out"))
    for name, path in world.items():
        text = text.replace(f"{{{name}}}", str(path))
    assert "{" not in text, text
    return text.split()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_a_pair(case: Case, world: World, tmp_path: Path) -> None:
    words = _words(case, world, tmp_path)
    if case.refused is None:
        with pytest.raises(Loaded):
            _raise(CliRunner().invoke(cli, words, input="天"))
        return
    with pytest.raises(ZhuziError) as raised:
        _raise(CliRunner().invoke(cli, words, input="天"))
    said = message(raised.value, lambda name, value: f"--{name}")
    assert "\n" not in said
    assert re.search(case.refused, said), said
    assert not (tmp_path / "out").exists()


# How long it takes for a model that is too large to be read at every start.


def _sparse(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * ITEM[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + at)
    os.utime(path, (0, 0))  # as if it had lain there for long


@pytest.fixture
def large(new_tokenizer: Path, corpus: Path, tmp_path: Path) -> World:
    """A 7B in 16 bits (13.8 GB) and an adapter with embedding and head (1.8 GB), both of zeros."""
    rows, width, inner, layers = 49_954, 4096, 11_008, 32
    matrices = {f"self_attn.{n}_proj": (width, width) for n in "qkvo"}
    matrices |= {f"mlp.{n}_proj": (inner, width) for n in ("gate", "up")} | {"mlp.down_proj": (width, inner)}
    ends = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (rows, width))
    shapes: dict[str, tuple[int, ...]] = {**ends, "model.norm.weight": (width,)}
    lora = {f"base_model.model.{name}": shape for name, shape in ends.items()}
    for number in range(layers):
        at = f"model.layers.{number}"
        shapes |= {f"{at}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{at}.{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
        for name, (out, into) in matrices.items():
            lora[f"base_model.model.{at}.{name}.lora_A.weight"] = (8, into)
            lora[f"base_model.model.{at}.{name}.lora_B.weight"] = (out, 8)
    it = {"corpus": corpus, "model": tmp_path / "model", "other": tmp_path / "other"}
    for name in ("model", "other"):
        shutil.copytree(new_tokenizer, it[name])
        _sparse(it[name] / "model.safetensors", shapes, "F16" if name == "model" else "BF16")
        config = {
            "model_type": "llama", "vocab_size": rows, "hidden_size": width, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": 32, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        (it[name] / "config.json").write_text(json.dumps(config))
    it["adapter"] = tmp_path / "adapter"
    it["adapter"].mkdir()
    _sparse(it["adapter"] / "adapter_model.safetensors", lora, "F32")
    settings = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 32, "modules_to_save": ["embed_tokens", "lm_head"],
        "target_modules": [name.rpartition(".")[2] for name in matrices],
    }  # fmt: skip
    (it["adapter"] / "adapter_config.json").write_text(json.dumps(settings))
    base, opened = ModelFolder.open(it["model"]), AdapterFolder.open(it["adapter"])
    files = {"adapter_model.safetensors": opened.digest}
    files["adapter_config.json"] = sha256(it["adapter"] / "adapter_config.json")
    write_record(
        it["adapter"], "adapter", base=base.describe(), tokenizer=base.tokenizer.fingerprint, rows=rows,
        files=files,
    )  # fmt: skip
    return it


@pytest.mark.slow
def test_checks_of_a_7b_take_less_than_a_second(
    large: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its fingerprint is kept, which the first command computes."""
    text = tmp_path / "text.txt"
    text.write_text("天地\n")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    recipe = _training(large, "model", str(large["corpus"]), tmp_path / "run", sequence_length=16)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "other.json").write_text(json.dumps({**recipe, "model": str(large["other"])}))
    model, other, adapter, out = large["model"], large["other"], large["adapter"], tmp_path / "out"
    for words, refused in (
        (f"pretrain {tmp_path / 'recipe.json'}", None),
        (f"pretrain {tmp_path / 'other.json'} --set output={tmp_path / 'run'}", r"run whose model \("),
        (f"model merge --model {model} --adapter {adapter} --out {out}", None),
        (f"model merge --model {other} --adapter {adapter} --out {out}", "another base model"),
        (f"model export --model {model} --format hf --out {out}", None),
        (f"model extend --model {model} --tokenizer {model} --pad-to-multiple 64 --out {out}", None),
        (f"chat --model {model}", None),
        (f"eval bits --model {adapter} --corpus {text}", None),
        (f"eval bits --model {adapter} --base {other} --corpus {text}", "another base model"),
    ):
        if "other.json" in words:  # a run without a checkpoint refuses nothing
            (tmp_path / "run" / "checkpoints" / "checkpoint-1").mkdir()
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            with pytest.raises((Loaded, ZhuziError), match=refused or ""):
                _raise(CliRunner().invoke(cli, words.split(), input="天"))
            seconds.append(time.perf_counter() - begun)
        sys.stdout.write(f"{seconds[0]:.2f} s, then {seconds[1]:.2f} s: {words.replace(str(tmp_path), '')}\n")
        assert seconds[1] < 1, words


def _raise(done: Any) -> None:
    assert done.exception is not None, done.output
    raise done.exception
