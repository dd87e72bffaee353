"""Pickled weights as safetensors: the same bits, and nothing of a file's code is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from zhuzi import extend_model, merge_adapter, pretrain
from zhuzi.cli import cli
from zhuzi.errors import InputError, MismatchError
from zhuzi.model import convert_model
from zhuzi.model.folder import ModelFolder


def pickled(folder: Path, out: Path, *, files: int = 1, **options: Any) -> Path:
    """A model as transformers 4 wrote it."""
    model = ModelFolder.open(folder)
    state = {name: model.read(name).clone() for name in model.tensors}
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors*", "zhuzi.json"))
    if files == 1:
        torch.save(state, out / "pytorch_model.bin", **options)
        return out
    places = {}
    for number in range(files):
        name = f"pytorch_model-{number + 1:05}-of-{files:05}.bin"
        part = {key: state[key] for key in sorted(state)[number::files]}
        torch.save(part, out / name, **options)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return out


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_the_same_bits(
    base_model: Path, new_tokenizer: Path, tmp_path: Path, files: int, options: dict[str, Any]
) -> None:
    """As torch writes it, and as it wrote it before 1.6."""
    source = pickled(base_model, tmp_path / "source", files=files, **options)
    with pytest.raises(InputError, match=r"zhuzi model convert --model .*source --out NEW"):
        ModelFolder.open(source)
    done = CliRunner().invoke(
        cli, ["model", "convert", "--model", str(source), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "out: model of 21 tensors, " in done.output
    made = ModelFolder.open(tmp_path / "out")
    assert made.fingerprint == ModelFolder.open(base_model).fingerprint
    assert made.tokenizer.fingerprint == ModelFolder.open(base_model).tokenizer.fingerprint
    assert len({info.file.name for info in made.tensors.values()}) == files
    assert AutoModelForCausalLM.from_pretrained(made.path).dtype == torch.float16
    record = json.loads((made.path / "zhuzi.json").read_text())
    assert len(record["converted"]["files"]) == files
    assert extend_model(made.path, new_tokenizer, tmp_path / "extended").new_rows == 410
    convert_model(source, made.path, overwrite=True)
    with pytest.raises(InputError, match="holds safetensors already"):
        convert_model(made.path, tmp_path / "again")


def test_an_adapter(model: Path, stage2: Callable[..., Any], tmp_path: Path) -> None:
    """Merged like the one it was; its record says where it came from, not what it was trained on."""
    adapter = pretrain(stage2()).result
    source = tmp_path / "source"
    shutil.copytree(adapter, source, ignore=shutil.ignore_patterns("*.safetensors", "zhuzi.json"))
    torch.save(load_file(adapter / "adapter_model.safetensors"), source / "adapter_model.bin")
    with pytest.raises(InputError, match=r"zhuzi model convert --model .*source"):
        merge_adapter(model, source, tmp_path / "merged", unverified=True)
    report = convert_model(source, tmp_path / "out")
    assert report.kind == "adapter" and (tmp_path / "out" / "zhuzi.json").is_file()
    with pytest.raises(MismatchError, match="nothing tells whether it was trained on"):
        merge_adapter(model, tmp_path / "out", tmp_path / "merged")
    merge_adapter(model, tmp_path / "out", tmp_path / "merged", unverified=True)
    merge_adapter(model, adapter, tmp_path / "wanted")
    merged, wanted = (ModelFolder.open(tmp_path / name) for name in ("merged", "wanted"))
    assert merged.fingerprint == wanted.fingerprint


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_code_is_not_run(base_model: Path, tmp_path: Path, zipped: bool, adapter: bool) -> None:
    source = tmp_path / "source"
    shutil.copytree(base_model, source, ignore=shutil.ignore_patterns("*.safetensors"))
    name = "pytorch_model.bin"
    if adapter:
        name = "adapter_model.bin"
        (source / "config.json").rename(source / "adapter_config.json")
    held = {"weight": torch.zeros(2), "more": Malicious(tmp_path / "marker")}
    torch.save(held, source / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"bin: refused: loading it would run code, .*system") as raised:
        convert_model(source, tmp_path / "out")
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "marker").exists() and not (tmp_path / "out").exists()
    torch.load(source / name, weights_only=False)  # it was no empty threat
    assert (tmp_path / "marker").exists()


def test_bad_files(base_model: Path, tmp_path: Path) -> None:
    source = pickled(base_model, tmp_path / "source")
    file = source / "pytorch_model.bin"
    whole = file.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            convert_model(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    for part in (b"", b"\x80", whole[: len(whole) // 2], whole[:-30], b"PK" * 500):
        file.write_bytes(part)
        refused(r"pytorch_model\.bin: ")
    for held, message in [
        ({}, "holds no tensors by name"),
        ([torch.zeros(1)], "holds no tensors by name"),
        ({"a": torch.zeros(1), "step": 7}, "'step' is a int, not a tensor"),
        ({"a": torch.zeros(1).expand(10**12)}, "a has 1,000,000,000,000 elements, more than its file"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "a is a tensor of complex64"),
        ({"a": torch.eye(3).to_sparse()}, "a is a tensor of float32, torch.sparse_coo|refused"),
    ]:
        torch.save(held, file)
        refused(message)
    torch.save({"a": torch.zeros(100_000)}, file)
    with (
        zipfile.ZipFile(file) as plain,
        zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    shutil.move(tmp_path / "packed", file)
    refused("is compressed")
    file.unlink()
    refused(r"holds no pytorch_model\.bin")
    index = source / "pytorch_model.bin.index.json"
    for places in ({"a": "../pytorch_model.bin"}, {"a": "absent.bin"}, {"a": 1}, [], {}):
        index.write_text(json.dumps({"weight_map": places}))
        refused("which the folder does not hold|no weight_map can be read")
    for number in (1, 2):
        torch.save({"a": torch.zeros(1)}, source / f"{number}.bin")
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    refused(r"2\.bin: holds a, which another file holds too")
    for path in source.iterdir():
        path.unlink()
    (source / "adapter_config.json").write_text("{}")
    refused(r"holds no adapter_model\.bin; there is nothing to convert")


def test_wrapped_weights(base_model: Path, tmp_path: Path) -> None:
    """As training programs save it, beside other things that are tensors or numbers."""
    source = pickled(base_model, tmp_path / "source")
    state = torch.load(source / "pytorch_model.bin")
    torch.save({"model": {"state_dict": state}, "step": 7}, source / "pytorch_model.bin")
    convert_model(source, tmp_path / "out")
    assert ModelFolder.open(tmp_path / "out").fingerprint == ModelFolder.open(base_model).fingerprint


# Meta's layout.

NAMES = {
    "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.down_proj": ("feed_forward.w2", 1),
    "mlp.up_proj": ("feed_forward.w3", 0), "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None), "model.embed_tokens": ("tok_embeddings", 1),
    "model.norm": ("norm", None), "lm_head": ("output", 0),
}  # fmt: skip


def side_by_side(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """transformers' order of rows, back to Meta's: row i and row i + half of a head become neighbours."""
    rows = []
    size = len(matrix) // heads
    for head in range(heads):
        for i in range(size // 2):
            rows += [head * size + i, head * size + size // 2 + i]
    return matrix[rows]


def as_meta(folder: Path, out: Path, *, files: int) -> Path:
    """A model as Meta published LLaMA, for so many GPUs."""
    model = ModelFolder.open(folder)
    heads, kv_heads = model.config["num_attention_heads"], model.config["num_key_value_heads"]
    out.mkdir()
    parts: list[dict[str, torch.Tensor]] = [{"rope.freqs": torch.ones(4)} for _ in range(files)]
    for name in model.tensors:
        stem = name.removesuffix(".weight")
        prefix = ""
        if stem.startswith("model.layers."):
            number, _, stem = stem.removeprefix("model.layers.").partition(".")
            prefix = f"layers.{number}."
        tensor, (new, side) = model.read(name).clone(), NAMES[stem]
        if stem.endswith(("q_proj", "k_proj")):
            tensor = side_by_side(tensor, heads if "q_" in stem else kv_heads)
        cut = [tensor] * files if side is None else tensor.chunk(files, side)
        for part, own in zip(parts, cut, strict=True):
            part[f"{prefix}{new}.weight"] = own.clone()
    for number, part in enumerate(parts):
        torch.save(part, out / f"consolidated.{number:02}.pth")
    params = {"dim": 32, "n_layers": 2, "n_heads": heads, "norm_eps": 1e-6, "vocab_size": -1}
    (out / "params.json").write_text(json.dumps({**params, "n_kv_heads": kv_heads}))
    shutil.copy(folder / "tokenizer.model", out)
    return out


@pytest.mark.parametrize("files", [1, 2])
def test_metas_layout(make_model: Callable[..., Path], tmp_path: Path, files: int) -> None:
    base = ModelFolder.open(make_model(tmp_path / "base", num_key_value_heads=2))
    convert_model(as_meta(base.path, tmp_path / "meta", files=files), tmp_path / "out")
    made = ModelFolder.open(tmp_path / "out")
    assert made.fingerprint == base.fingerprint and made.tokenizer.vocab_size == 400
    ids = torch.arange(40)[None] * 10
    with torch.no_grad():
        ours, theirs = (
            AutoModelForCausalLM.from_pretrained(m.path, dtype=torch.float32)(input_ids=ids).logits
            for m in (made, base)
        )
    assert torch.equal(ours, theirs)
    assert made.config["rms_norm_eps"] == 1e-6 and made.config["num_key_value_heads"] == 2


def test_metas_rotation(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """Scores of attention by Meta's complex numbers, and by transformers on the converted rows."""
    base = make_model(tmp_path / "base", num_key_value_heads=4)
    meta = as_meta(base, tmp_path / "meta", files=1)
    held = torch.load(meta / "consolidated.00.pth")
    convert_model(meta, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))

    def by_meta(matrix: torch.Tensor) -> torch.Tensor:
        frequencies = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        turns = torch.polar(torch.ones(9, 4), torch.outer(torch.arange(9), frequencies))
        pairs = torch.view_as_complex((x @ matrix.float().T).view(1, 9, 4, 4, 2))
        return torch.view_as_real(pairs * turns[None, :, None]).flatten(3).transpose(1, 2)

    q, k = (by_meta(held[f"layers.0.attention.w{name}.weight"]) for name in "qk")
    cos, sin = model.model.rotary_emb(x, torch.arange(9)[None])
    attention = model.model.layers[0].self_attn
    new_q, new_k = ((p(x)).view(1, 9, 4, 8).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
    new_q, new_k = apply_rotary_pos_emb(new_q, new_k, cos, sin)
    assert torch.allclose(q @ k.mT, new_q @ new_k.mT, atol=1e-5)


def test_bad_parts_of_metas(make_model: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", num_key_value_heads=2)
    meta = as_meta(base, tmp_path / "meta", files=2)
    second, params = meta / "consolidated.01.pth", meta / "params.json"
    held, said = torch.load(second), json.loads(params.read_text())

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            convert_model(meta, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    name = "layers.1.feed_forward.w1.weight"
    torch.save({**held, name: held[name][:, 1:].clone()}, second)
    refused(rf"the parts of {name} do not fit together")
    torch.save({key: value for key, value in held.items() if key != name}, second)
    refused(rf"only some of its files hold {name}")
    torch.save(held, second)
    for change, message in [({"n_heads": 3}, "not those of 3 heads"), ({"n_heads": "4"}, "n_heads is '4'")]:
        params.write_text(json.dumps({**said, **change}))
        refused(message)
    params.write_text(json.dumps(said))
    second.rename(meta / "consolidated.02.pth")
    refused(r"holds no consolidated\.01\.pth")
    (meta / "consolidated.02.pth").unlink()
    torch.save({**held, "layers.0.moe.weight": torch.zeros(1)}, meta / "consolidated.00.pth")
    refused("its tensor layers.0.moe.weight is not one of LLaMA's")


RUN = """
import sys, threading
from zhuzi.model import convert_model
import torch

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

before = most = anonymous()

def watch():
    global most
    while not threading.Event().wait(0.002):
        most = max(most, anonymous())

threading.Thread(target=watch, daemon=True).start()
convert_model(sys.argv[1], sys.argv[2])
print(most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    """A file of 320 MB."""
    source = tmp_path / "source"
    source.mkdir()
    torch.save(
        {str(i): torch.randn(4000, 4000, dtype=torch.float16) for i in range(10)},
        source / "pytorch_model.bin",
    )
    (source / "config.json").write_text("{}")
    command = [sys.executable, "-c", RUN, str(source), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100e6
