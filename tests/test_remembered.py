"""Digests of large files are computed once, and again after any change."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from zhuzi.record import remembered as module
from zhuzi.record.remembered import remembered


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large, changed a minute ago, and an empty cache."""
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "weights"
    path.write_bytes(b"1234")
    _age(path)
    return path


def _age(path: Path) -> None:
    then = time.time_ns() - 60 * 10**9 + int(path.read_bytes()[-1])
    os.utime(path, ns=(then, then))


def _calls(file: Path) -> int:
    calls = []

    def compute() -> str:
        calls.append(1)
        return file.read_bytes().hex().rjust(64, "0")

    assert remembered([file], compute) == file.read_bytes().hex().rjust(64, "0")
    return len(calls)


def test_a_file_is_hashed_once(file: Path) -> None:
    assert [_calls(file), _calls(file), _calls(file)] == [1, 0, 0]


def test_any_change_is_seen(file: Path, tmp_path: Path) -> None:
    assert _calls(file) == 1
    file.write_bytes(b"1235")  # of the same size
    assert [_calls(file), _calls(file)] == [1, 1]  # changed a moment ago: not trusted
    _age(file)
    assert [_calls(file), _calls(file)] == [1, 0]
    copy = tmp_path / "copy"
    shutil.copy2(file, copy)
    assert _calls(copy) == 1


def test_a_change_that_sets_the_time_back_is_seen(file: Path) -> None:
    assert _calls(file) == 1
    before = file.stat()
    file.write_bytes(b"1235")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _calls(file) == 1


def test_a_cache_that_cannot_be_used_is_passed_over(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert [_calls(file), _calls(file)] == [1, 1]
    (tmp_path / "cache").unlink()
    assert _calls(file) == 1
    (kept,) = (tmp_path / "cache" / "zhuzi" / "fingerprints").iterdir()
    for damage in (b"", b"zz", bytes(range(200, 256))):
        kept.write_bytes(damage)
        assert _calls(file) == 1


def test_small_files_leave_no_trace(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1000)
    assert [_calls(file), _calls(file)] == [1, 1]
    assert not (tmp_path / "cache").exists()


def test_a_user_without_a_home_has_no_cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    assert _calls(file) == _calls(file) == 1
