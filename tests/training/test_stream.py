"""Weights written tensor by tensor: the library's bytes, and memory that does not grow with the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zhuzi.errors import InputError
from zhuzi.model.stream import NAMES, Blocks, TensorFiles, rounded, start_files
from zhuzi.model.weights import read_header


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Of every type, with names that sort otherwise than types do, an empty one and a number."""
    generator = torch.Generator().manual_seed(0)
    made = {
        f"{letter}.{dtype}": (torch.rand(3, 5, generator=generator) * 100).to(getattr(torch, dtype))
        for letter, dtype in zip("zyxwvutsrq", NAMES, strict=True)
    }
    return {**made, "名": torch.zeros(0, 4), "a": torch.tensor(1.5)}


def test_the_bytes_are_the_librarys(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    files = TensorFiles()
    files.add(tmp_path / "ours", {n: (NAMES[Blocks.of(t).dtype], tuple(t.shape)) for n, t in tensors.items()})
    for name, tensor in reversed(tensors.items()):
        files.put(name, tensor.split(2) if tensor.ndim else [tensor])
        assert torch.equal(files.read(name), tensor)  # before the others are written
    files.require_complete()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_copies_and_replacements(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_file(tensors, tmp_path / "first", metadata={"format": "pt"})
    save_file({"b": torch.ones(7)}, tmp_path / "second")
    held = read_header(tmp_path / "first") | read_header(tmp_path / "second")
    seen: list[tuple[int, int]] = []
    name = "y.float32"
    half = rounded(held[name], "bfloat16")
    files = start_files(
        held, tmp_path / "out", {name: (half.dtype, half.shape)}, lambda *done: seen.append(done)
    )
    assert files.is_written("b")
    with pytest.raises(ValueError, match="not written"):
        files.require_complete()
    files.put(name, half.make())
    for other in set(held) - {name, "b"}:
        files.copy(other, held[other])
    files.require_complete()
    assert (tmp_path / "out" / "second").read_bytes() == (tmp_path / "second").read_bytes()
    made = load_file(tmp_path / "out" / "first")
    assert made.pop(name).equal(tensors[name].bfloat16())
    for other, tensor in made.items():
        assert torch.equal(tensor, tensors[other]), other
    assert seen[-1] == (files.size, files.size) and seen == sorted(seen)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    files = TensorFiles()
    files.add(tmp_path / "a", {"x": ("F32", (4,))})
    with pytest.raises(ValueError, match="x: 8 bytes were made of 16"):
        files.put("x", [torch.zeros(2)])
    save_file({"x": torch.zeros(4)}, tmp_path / "b")
    held = read_header(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"\xff" * 60)
    with pytest.raises(InputError, match=r"b: cannot be read \(it ends within x\)"):
        files.copy("x", held["x"])
