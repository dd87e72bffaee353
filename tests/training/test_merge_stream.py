"""Merging and extending layer by layer: every kind of adapter, several of them, and the memory it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from zhuzi import extend_model, merge_adapter, pretrain, sft
from zhuzi.cli import cli
from zhuzi.errors import InputError, MismatchError
from zhuzi.model.export.export import export_model
from zhuzi.model.folder import ModelFolder
from zhuzi.model.stream import TensorFiles
from zhuzi.train.recipe import SftRecipe


def make_adapter(base: Path, out: Path, *, seed: int = 1, save: Any = "auto", **settings: Any) -> Path:
    """An adapter by PEFT alone, with values that a training might have given it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(
        model,
        LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **settings}),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    adapted.save_pretrained(out, save_embedding_layers=save)
    return out


KINDS: list[dict[str, Any]] = [
    {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": "all-linear", "use_rslora": True},
    {"trainable_token_indices": {"embed_tokens": [390, 7], "lm_head": [7, 390]}, "save": False},
    {"trainable_token_indices": [5, 399], "use_dora": True, "save": False},
    {"target_modules": ["o_proj", "embed_tokens"], "use_dora": True, "save": False},
    {"target_modules": ["down_proj", "lm_head"], "layers_to_transform": [1], "save": False},
]


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_kinds_of_adapters(make_model: Callable[..., Path], tmp_path: Path, number: int) -> None:
    """The bits of PEFT's own merge of the whole model."""
    base = make_model(tmp_path / "base", tie_word_embeddings=False)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[number])
    report = merge_adapter(base, adapter, tmp_path / "out", unverified=True)
    assert report.difference <= 1e-4 and report.difference_stored < 1e-2
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(whole, adapter).merge_and_unload().state_dict()
    made, before = ModelFolder.open(tmp_path / "out"), ModelFolder.open(base)
    assert [info.file.name for info in made.tensors.values()] == [
        info.file.name for info in before.tensors.values()
    ]
    for name in made.tensors:
        assert torch.equal(made.read(name), theirs[name].half()), name


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [5, 399], "ensure_weight_tying": True, "save": False},
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_tied(
    make_model: Callable[..., Path],
    make_stored_twice: Callable[..., Path],
    tmp_path: Path,
    settings: dict[str, Any],
    stored: bool,
) -> None:
    """Embedding and head are one matrix, which some folders store twice."""
    base = tmp_path / "base"
    make_stored_twice(base) if stored else make_model(base, tie_word_embeddings=True)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    report = merge_adapter(base, adapter, tmp_path / "out", unverified=True)
    assert report.difference <= 1e-4 and report.difference_stored < 1e-2
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(20)[None] * 20
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(whole, adapter).eval()(input_ids=ids).logits
        apart = (made(input_ids=ids).logits - wanted).abs().max()
    assert float(apart / wanted.abs().max()) < 1e-2
    assert torch.equal(made.lm_head.weight, made.model.embed_tokens.weight)


def test_one_of_two_tied_matrices(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """A head that was trained alone would be lost, or would change the embedding."""
    base = make_model(tmp_path / "base", tie_word_embeddings=True)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    model.save_pretrained(tmp_path / "untied")
    for file in ("tokenizer.model", "config.json"):
        shutil.copy(base / file, tmp_path / "untied" / file)
    adapter = make_adapter(tmp_path / "untied", tmp_path / "adapter", modules_to_save=["lm_head"])
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"which in .*base are one matrix"):
        merge_adapter(base, adapter, tmp_path / "out", unverified=True)
    assert not (tmp_path / "out").exists()


def test_a_start_that_changes_the_base(make_model: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", init_lora_weights="pissa")
    with pytest.raises(InputError, match="made with init_lora_weights pissa, which changes the base"):
        merge_adapter(base, adapter, tmp_path / "out", unverified=True)


# Several adapters.


@pytest.fixture
def two(
    model: Path, stage2: Callable[..., Any], instructions: Path, tmp_path: Path
) -> tuple[Path, Path, Path]:
    """An adapter of the model, one of the model with it merged, and what two calls make of them."""
    first = pretrain(stage2(output=tmp_path / "first")).result
    between = merge_adapter(model, first, tmp_path / "between").out
    recipe = SftRecipe.model_validate({
        "task": "sft", "model": str(between), "instructions": [str(instructions)],
        "output": tmp_path / "second", "lora": {"rank": 2, "targets": ["q_proj", "down_proj"]},
        "sequence_length": 128, "steps": 4, "batch_size": 2, "learning_rate": 1e-2,
    })  # fmt: skip
    second = sft(recipe).result
    return first, second, merge_adapter(between, second, tmp_path / "one-by-one").out


def test_several_in_order(model: Path, two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The bits of one call after the other; in another order, or one alone, refused by the records."""
    first, second, wanted = two
    arguments = ["model", "merge", "--model", model, "--adapter", first, "--adapter", second]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The PEFT config's")  # of the name under which it was trained
        done = CliRunner().invoke(cli, [*map(str, arguments), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    made = ModelFolder.open(tmp_path / "out")
    assert made.fingerprint == ModelFolder.open(wanted).fingerprint
    assert sorted(p.name for p in made.path.iterdir()) == sorted(p.name for p in wanted.iterdir())
    record = json.loads((made.path / "zhuzi.json").read_text())
    assert [entry["path"] for entry in record["adapters"]] == [str(first), str(second)]
    assert record["base"]["fingerprint"] == ModelFolder.open(model).fingerprint
    assert (record["adapter"], record["rows"], record["original_rows"]) == (str(second), 410, 400)

    with pytest.raises(MismatchError, match=r"second.*made on another base model"):
        merge_adapter(model, [second, first], tmp_path / "no")
    with pytest.raises(MismatchError, match=r"first.* than that of .* with .*first.* merged into it"):
        merge_adapter(model, [first, first], tmp_path / "no")
    made_on = ModelFolder.open(two[2].parent / "between").fingerprint[:12]
    with pytest.raises(MismatchError, match=rf"another base model \({made_on}\) than .* \([0-9a-f]{{12}}\)"):
        merge_adapter(model, second, tmp_path / "no")
    with pytest.raises(ValueError, match="adapter: name at least one"):
        merge_adapter(model, [], tmp_path / "no")
    assert not (tmp_path / "no").exists() and not list(tmp_path.glob(".no*"))


def test_the_card_of_several(model: Path, two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The rows of one call after the other; without its record, an adapter keeps its row."""
    first, second, wanted = two
    merge_adapter(model, [first, second], tmp_path / "out")

    def made(folder: Path, name: str) -> list[str]:
        card = export_model(folder, tmp_path / name, format="hf").path / "README.md"
        return card.read_text("utf-8").partition("|---|\n")[2].partition("\n\n")[0].splitlines()

    rows = made(tmp_path / "out", "together")
    assert rows == made(wanted, "apart")
    between = ModelFolder.open(tmp_path / "between").fingerprint[:12]
    assert [row.split(" | ")[0] for row in rows[-2:]] == ["| pre-training", "| instruction tuning"]
    assert [row.split(" | ")[1] for row in rows[-2:]] == [
        f"model ({ModelFolder.open(model).fingerprint[:12]})", f"between ({between})"
    ]  # fmt: skip
    for folder in (first, second):
        shutil.rmtree(folder)
    lost = made(tmp_path / "out", "lost")
    assert lost[:-2] == rows[:-2] and lost[-2].startswith(f"| merged model | {rows[-2].split(' | ')[1]} |")
    assert lost[-1].startswith("| merged model | the model of the row above |")


def test_progress(model: Path, two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    merge_adapter(model, two[:2], tmp_path / "out", progress=lambda *done: seen.append(done))
    size = 2 * sum(info.end - info.begin for info in ModelFolder.open(model).tensors.values())
    assert seen == sorted(seen) and seen[-1] == (size, size) and len(seen) > 20


# Adapters that bring their vocabulary with them.


@pytest.fixture
def published(
    base_model: Path, old_tokenizer: Path, new_tokenizer: Path, tmp_path: Path
) -> tuple[Path, Path, Path]:
    """One with the Chinese pieces, one with [PAD] as well, and what comes of extending before each merge."""
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    shutil.copy(new_tokenizer / "tokenizer.model", pieces)
    grown = extend_model(base_model, pieces, tmp_path / "grown").out
    first = make_adapter(grown, tmp_path / "llama-lora", modules_to_save=["embed_tokens", "lm_head"])
    shutil.copy(new_tokenizer / "tokenizer.model", first)
    between = merge_adapter(grown, first, tmp_path / "between", unverified=True).out
    padded = extend_model(between, new_tokenizer, tmp_path / "padded").out
    second = make_adapter(
        *(padded, tmp_path / "alpaca-lora"), seed=2, target_modules="all-linear", exclude_modules=["lm_head"],
        modules_to_save=["embed_tokens", "lm_head"],
    )  # fmt: skip
    for file in new_tokenizer.iterdir():
        shutil.copy(file, second)
    return first, second, merge_adapter(padded, second, tmp_path / "wanted", unverified=True).out


def test_published_adapters(
    base_model: Path, published: tuple[Path, Path, Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    """400 rows become 409, then 410: the bits of extending, merging, extending and merging."""
    first, second, wanted = published
    arguments = [
        "model",
        "merge",
        "--model",
        base_model,
        "--adapter",
        first,
        "--adapter",
        second,
        "--unverified",
    ]
    done = CliRunner().invoke(cli, [*map(str, arguments), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "410 rows, 10 more than the base's, for the ids of an adapter's own tokenizer" in done.output
    made = ModelFolder.open(tmp_path / "out")
    assert made.fingerprint == ModelFolder.open(wanted).fingerprint
    assert made.config == ModelFolder.open(wanted).config
    assert made.tokenizer.fingerprint == ModelFolder.open(wanted).tokenizer.fingerprint
    assert made.generation_config == ModelFolder.open(wanted).generation_config
    record = json.loads((made.path / "zhuzi.json").read_text())
    assert (record["rows"], record["original_rows"]) == (410, 400)
    assert record["original_rows"] == ModelFolder.open(wanted).original_rows


def test_a_vocabulary_that_does_not_fit(
    base_model: Path, published: tuple[Path, Path, Path], new_tokenizer: Path, tmp_path: Path
) -> None:
    first, second, _ = published

    def refused(message: str, *adapters: Path) -> None:
        with pytest.raises(MismatchError, match=message):
            merge_adapter(base_model, adapters, tmp_path / "out", unverified=True)
        assert not (tmp_path / "out").exists()

    refused(r"its tensor .* is \[409, 32\], the base's \[410, 32\]", second, first)  # never smaller
    (first / "added_tokens.json").write_text('{"[PAD]": 409}')
    refused("its tokenizer has 410 ids, its embedding 409 rows", first)
    (first / "added_tokens.json").unlink()
    tokenizer = first / "tokenizer.model"
    whole = tokenizer.read_bytes()
    tokenizer.write_bytes(whole.replace("▁the".encode(), "▁tha".encode()))
    refused("is '▁the' in .* the row trained for it would be lost", first)
    tokenizer.unlink()
    refused("give the base with as many rows", first)
    tokenizer.write_bytes(whole)
    alone = make_adapter(
        extend_model(base_model, first, tmp_path / "again").out,
        *(tmp_path / "alone",), modules_to_save=["embed_tokens"],
    )  # fmt: skip
    shutil.copy(tokenizer, alone)
    refused("give the base with as many rows", alone)


@pytest.mark.gpu
@pytest.mark.parametrize("tied", [False, True])
def test_the_bytes_do_not_depend_on_the_device(
    make_model: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    """The probe runs on the GPU; the products are added on the CPU."""
    base = make_model(tmp_path / "base", tie_word_embeddings=tied)
    adapter = make_adapter(
        *(base, tmp_path / "adapter"), modules_to_save=["embed_tokens"] if tied else ["lm_head"],
        ensure_weight_tying=tied, use_dora=True,
    )  # fmt: skip
    reports = [
        merge_adapter(base, adapter, tmp_path / place, device=place, unverified=True)
        for place in ("cpu", "cuda")
    ]
    ours, theirs = (ModelFolder.open(report.out).fingerprint for report in reports)
    assert ours == theirs and max(report.difference for report in reports) <= 1e-4


def test_an_unknown_device(model: Path, two: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device: 'gpu' is unknown; want cpu, cuda or cuda:1"):
        merge_adapter(model, two[0], tmp_path / "out", device="gpu")
    assert not (tmp_path / "out").exists()


# Memory. Models of random weights, written tensor by tensor.

SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8}
THIRTEEN = {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40}


def blocks(shape: tuple[int, ...], dtype: torch.dtype, scale: float) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(min(shape[0], 512), *shape[1:], generator=generator).mul_(scale).to(dtype)
    for begin in range(0, shape[0], len(block)):
        yield block[: shape[0] - begin]


def write(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, scale: float) -> None:
    files = TensorFiles()
    files.add(
        path, {name: ({"float16": "F16", "float32": "F32"}[dtype], shape) for name, shape in shapes.items()}
    )
    for name, shape in shapes.items():
        files.put(name, blocks(shape, getattr(torch, dtype), scale))


def make_big(
    folder: Path, sizes: dict[str, int], layers: int, rows: int, tokenizer: Path, adapter: Path
) -> None:
    """A sharded LLaMA in fp16, a file for each layer, and an adapter of all matrices, embedding and head."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    matrices = {
        **{f"self_attn.{n}_proj": (width, width) for n in "qkvo"},
        **{f"mlp.{n}_proj": (inner, width) for n in ("gate", "up")},
        "mlp.down_proj": (width, inner),
    }
    folder.mkdir(parents=True)
    adapter.mkdir()
    places: dict[str, str] = {}
    for number in range(layers + 1):
        shapes: dict[str, tuple[int, ...]] = {
            f"model.layers.{number}.{name}.weight": shape for name, shape in matrices.items()
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{number}.{norm}.weight"] = (width,)
        if number == layers:
            shapes = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (rows, width))
            shapes["model.norm.weight"] = (width,)
        name = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        write(folder / name, shapes, "float16", width**-0.5)
        places |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers,
        "num_key_value_heads": sizes["num_attention_heads"], "vocab_size": rows, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": "float16", **sizes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    prefix = "base_model.model."
    shapes = {f"{prefix}{n}.weight": (rows, width) for n in ("model.embed_tokens", "lm_head")}
    for number in range(layers):
        for matrix, (out, into) in matrices.items():
            shapes[f"{prefix}model.layers.{number}.{matrix}.lora_A.weight"] = (8, into)
            shapes[f"{prefix}model.layers.{number}.{matrix}.lora_B.weight"] = (out, 8)
    write(adapter / "adapter_model.safetensors", shapes, "float32", 0.01)
    settings = LoraConfig(
        r=8, lora_alpha=32, task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"],
        target_modules=[name.rpartition(".")[2] for name in matrices],
    )  # fmt: skip
    settings.save_pretrained(adapter)


RUN = """
import json, shutil, sys, threading
from zhuzi import extend_model, merge_adapter

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

most = 0

def watch():
    global most
    while not threading.Event().wait(0.002):
        most = max(most, anonymous())

threading.Thread(target=watch, daemon=True).start()
base, adapter, tokenizer, out, rows = sys.argv[1:]
found = {}
for what in ("subword-mean", "normal", "merge"):
    most = 0
    if what == "merge":
        merge_adapter(base, adapter, out, unverified=True)
    else:
        extend_model(base, tokenizer, out, pad_to_multiple=int(rows), init=what)
    found[what] = most
    shutil.rmtree(out)
print(json.dumps(found))
"""


def peaks(
    place: Path, sizes: dict[str, int], layers: int, rows: int, old: Path, new: Path, more: int
) -> dict[str, int]:
    """Peak anonymous memory of extending by two initialisers and of merging, with the libraries, in bytes."""
    make_big(place / "base", sizes, layers, rows, old, place / "adapter")
    words = [place / "base", place / "adapter", new, place / "out", more]
    # The allocator keeps what is freed in small pieces; larger ones go back to the system, as a 7B's do.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, "-c", RUN, *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    shutil.rmtree(place)
    found: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_layers(
    old_tokenizer: Path, new_tokenizer: Path, tmp_path: Path
) -> None:
    """Ten layers more are 126 MB in fp32, 63 MB in fp16."""
    arguments = (1000, old_tokenizer, new_tokenizer, 1024)
    few = peaks(tmp_path / "few", SMALL, 2, *arguments)
    many = peaks(tmp_path / "many", SMALL, 12, *arguments)
    for what in few:
        assert many[what] - few[what] < 30e6, (what, few, many)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.timeout(3600)
def test_memory_of_13b(old_tokenizer: Path, new_tokenizer: Path, tmp_path: Path) -> None:
    """13B's matrices; 26 GB of disk."""
    if shutil.disk_usage(tmp_path).free < 30e9:
        pytest.skip("wants 30 GB of disk")
    arguments = (49_954, old_tokenizer, new_tokenizer, 50_048)
    few = peaks(tmp_path / "8", THIRTEEN, 8, *arguments)
    many = peaks(tmp_path / "16", THIRTEEN, 16, *arguments)
    print(few, many)  # noqa: T201
    for what in few:
        assert max(few[what], many[what]) < 6e9, (what, few, many)
        assert many[what] - few[what] < 0.3e9, (what, few, many)
