"""Outputs: nothing of the user's is lost, whatever the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import zhuzi
from zhuzi._output import new_folder, require_free
from zhuzi.errors import OutputExistsError


def write(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def commands(base: Path, donor: Path) -> dict[str, Callable[[Path, Path], object]]:
    """Each takes (folder that holds its input, output)."""
    return {
        "merge": lambda held, out: zhuzi.merge_vocab(
            write_bytes(held / "b.model", base), donor, out, overwrite=True
        ),
        "encode": lambda held, out: zhuzi.encode_corpus(
            [write(held / "a.txt")], _tokenizer(base, held.parent), out, overwrite=True
        ),
        "train": lambda held, out: zhuzi.train_vocab([write(held / "a.txt")], out, overwrite=True),
    }


def write_bytes(path: Path, source: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read_bytes())
    return path


def _tokenizer(base: Path, folder: Path) -> Path:
    write_bytes(folder / "tok" / "tokenizer.model", base)
    return folder / "tok"


@pytest.mark.parametrize("name", ["merge", "encode", "train"])
@pytest.mark.parametrize("place", ["the input's folder", "above it", "current folder", "home", "nameless"])
def test_overwrite_spares_what_it_must(
    name: str, place: str, base_model_file: Path, donor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "work" / "held"
    write(held / "thesis.txt")
    write(held / "zhuzi.json", '{"zhuzi": "0"}')  # even where it looks like ours
    monkeypatch.chdir(held)
    monkeypatch.setenv("HOME", str(held))
    out = {
        "the input's folder": held,
        "above it": held.parent,
        "current folder": Path(),
        "home": Path.home(),
        "nameless": "",
    }[place]
    with pytest.raises(OutputExistsError):
        commands(base_model_file, donor)[name](held, out)  # type: ignore[arg-type]
    assert (held / "thesis.txt").read_text() == "mine"


def test_overwrite_replaces_only_our_folders(tmp_path: Path) -> None:
    theirs = write(tmp_path / "theirs" / "manifest.json", '{"name": "a web page"}').parent
    with pytest.raises(OutputExistsError, match="not written by zhuzi"):
        require_free(theirs, overwrite=True)
    ours = write(tmp_path / "ours" / "zhuzi.json", '{"zhuzi": "0.1"}').parent
    require_free(ours, overwrite=True)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        require_free(ours, overwrite=False)
    with pytest.raises(OutputExistsError, match="is a file"):
        require_free(ours / "zhuzi.json", overwrite=True)


def test_what_comes_during_the_work_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputExistsError), new_folder(out) as folder:
        write(folder / "result")
        write(out / "thesis.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_link_to_another_disk_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "runs") as folder:
        write(folder / "result")
    assert (tmp_path / "runs").is_symlink()
    assert (tmp_path / "disk" / "result").read_text() == "mine"


def test_results_can_be_read_by_others(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with new_folder(tmp_path / "out") as folder:
            write(folder / "weights").chmod(0o600)
    finally:
        os.umask(old)
    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as folder:
        write(folder / "half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
