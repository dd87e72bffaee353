"""Outputs: nothing of the user's is lost, whatever the command."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import zhuzi
from zhuzi.cli import cli
from zhuzi.cli.options import Input, Output
from zhuzi.corpus import corpus_stats, export_datatrove, merge_shards
from zhuzi.errors import OutputExistsError
from zhuzi.record import disk
from zhuzi.record.disk import require_space
from zhuzi.record.output import new_file, new_folder
from zhuzi.record.place import require_free, require_free_file


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
    with pytest.raises(OutputExistsError, match="overwrite=True"):
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


# Every output of every command, taken from the command tree.


def walk(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from walk(inner, (*path, name))


COMMANDS = dict(walk(cli))

OUTPUTS = [
    (path, parameter.opts[0])
    for path, command in COMMANDS.items()
    for parameter in command.params
    if isinstance(parameter.type, Output)
]

#: Options of text that name no file; `--model` and `--base` are a folder to read or an id or number.
TEXT = {
    *("--field", "--split", "--separator", "--task", "--add-token", "--device", "--model", "--base"),
    *("--name", "--license", "--base-model", "--host"),
    *("--system", "--endpoint", "--key-env", "--extra", "--judge", "--judge-model", "--subject", "text"),
    *("--set", "--map", "--gpu-memory", "--rope", "name"),
}


def test_every_path_is_known_as_input_or_output() -> None:
    for path, command in COMMANDS.items():
        for parameter in command.params:
            where = f"{' '.join(path)} {parameter.opts[0]}"
            if isinstance(parameter.type, click.Path):
                assert isinstance(parameter.type, Input | Output), where
            elif parameter.type is click.STRING:
                assert parameter.opts[0] in TEXT, f"{where}: is it a path? then give it a type that says so"
            assert not isinstance(parameter.type, click.File), where
    assert {path[0] for path, _ in OUTPUTS} >= {"vocab", "corpus", "model", "demo"}


@pytest.fixture(scope="module")
def invocations(
    base_model_file: Path,
    donor: Path,
    merged: Path,
    chinese_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, ...], tuple[list[object], Path]]:
    """For each command that writes: arguments that work but for the output, and one of its inputs."""
    work = tmp_path_factory.mktemp("work")
    corpus = zhuzi.encode_corpus([chinese_file], merged, work / "corpus", limit=20).folder
    text = write(work / "text.txt", "一些文字")
    seeds = write(work / "seeds" / "seeds.jsonl", '{"instruction": "问", "input": "", "output": "答"}')
    return {
        ("vocab", "extend"): (
            [text, "--base", base_model_file, "--new-pieces", 9, "--characters", "none"],
            text,
        ),
        ("vocab", "train"): ([text], text),
        ("vocab", "merge"): (
            ["--base", base_model_file, "--donor", donor, "--out", work / "merged"],
            donor,
        ),
        ("vocab", "export"): (["--tokenizer", merged], merged / "tokenizer.model"),
        ("vocab", "audit"): ([merged, "--corpus", text, "--parity-bytes", 0], text),
        ("corpus", "encode"): ([chinese_file, "--tokenizer", merged], chinese_file),
        ("corpus", "merge"): ([corpus], corpus),
        ("corpus", "export"): ([corpus], corpus),
        ("corpus", "stats"): ([corpus, "--tokenizer", merged], corpus / "manifest.json"),
        ("recipes", "copy"): (["llama-7b-sft"], text),
        ("model", "extend"): (["--model", work / "model", "--tokenizer", merged], merged),
        ("model", "export"): (["--model", work / "model", "--check", text], text),
        ("model", "convert"): (["--model", work / "seeds"], seeds),
        ("model", "merge"): (["--model", work / "model", "--adapter", merged], merged),
        ("instruct",): (
            ["--seeds", seeds, "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"],
            seeds,
        ),
        ("eval", "compare"): (["--model", work / "model", "--prompts", seeds], seeds),
        ("eval", "bits"): (["--model", work / "model", "--corpus", text], text),
        ("eval", "ceval"): (["--model", work / "model", "--data", text], text),
        ("eval", "cmmlu"): (["--model", work / "model", "--data", text], text),
        ("demo",): (["--corpus", chinese_file], chinese_file),
    }


@pytest.mark.parametrize("what", ["a file", "a folder", "an input", "the input's folder"])
@pytest.mark.parametrize(
    ("command", "option"), OUTPUTS, ids=lambda v: v if isinstance(v, str) else " ".join(v)
)
def test_no_command_replaces_what_zhuzi_did_not_write(
    command: tuple[str, ...],
    option: str,
    what: str,
    invocations: dict[tuple[str, ...], tuple[list[object], Path]],
    tmp_path: Path,
) -> None:
    if command == ("demo",):
        pytest.importorskip("torch")
    args, read = invocations[command]
    foreign = write(tmp_path / "precious" / "thesis.html", "<html>mine</html>")
    out = {"a file": foreign, "a folder": foreign.parent, "an input": read, "the input's folder": read.parent}
    if command == ("corpus", "merge"):  # writes OUT.bin and OUT.idx
        write(tmp_path / "precious.bin")
        out |= {"a file": write(tmp_path / "zh.idx").with_suffix("")}
        out |= {"an input": read / "shard-00000", "the input's folder": read / "all"}
    before = contents(tmp_path) | contents(read.parent)
    done = CliRunner().invoke(cli, [*command, *map(str, args), option, str(out[what]), "--overwrite"])
    assert isinstance(done.exception, OutputExistsError), (done.output, done.exception)
    assert contents(tmp_path) | contents(read.parent) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(out: Path, text: str, *, overwrite: bool = False, endings: tuple[str, ...] = ("",)) -> None:
    with new_file(out, kind="test", overwrite=overwrite, endings=endings) as made:
        for ending in endings:
            made.with_name(made.name + ending).write_text(text + ending)


def test_a_file_is_ours_as_long_as_it_is_as_recorded(tmp_path: Path) -> None:
    out = tmp_path / "donor.model"
    make(out, "one")
    record = json.loads((tmp_path / "donor.model.zhuzi.json").read_bytes())
    assert record["kind"] == "test"
    assert record["files"]["donor.model"]["bytes"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["donor.model", "donor.model.zhuzi.json"]
    with pytest.raises(OutputExistsError, match="already there"):
        make(out, "two")
    make(out, "two", overwrite=True)
    assert out.read_text() == "two"
    out.write_text("own")
    with pytest.raises(OutputExistsError, match="changed since"):
        make(out, "three", overwrite=True)
    out.unlink()
    make(out, "three")


def test_locks_of_a_failed_encoding_are_no_content(tmp_path: Path) -> None:
    for name in (".lock", ".lock-plan"):
        write(tmp_path / "zh" / name, "")
    require_free(tmp_path / "zh", overwrite=False)
    write(tmp_path / "zh" / ".lock", "theirs")
    with pytest.raises(OutputExistsError, match="was not written by zhuzi"):
        require_free(tmp_path / "zh", overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", "sub/x", "my.json", ".git/config"])
def test_what_a_user_put_into_a_folder_of_ours_stays(name: str, merged: Path, tmp_path: Path) -> None:
    shutil.copytree(merged, tmp_path / "ours")
    require_free(tmp_path / "ours", overwrite=True)
    write(tmp_path / "ours" / name, "mine")
    with pytest.raises(OutputExistsError, match="which zhuzi did not write"):
        require_free(tmp_path / "ours", overwrite=True)


def test_json_with_our_name_in_it_is_not_ours(tmp_path: Path) -> None:
    theirs = write(tmp_path / "mine.json", '{"zhuzi": 1, "notes": "my own file"}')
    with pytest.raises(OutputExistsError, match="was not written by zhuzi"):
        require_free_file(theirs, overwrite=True)


def test_a_record_of_somebody_else_stays(tmp_path: Path) -> None:
    theirs = write(tmp_path / "donor.model.zhuzi.json", '{"zhuzi": "my notes"}')
    with pytest.raises(OutputExistsError, match=r"donor\.model\.zhuzi\.json: was not written by zhuzi"):
        make(tmp_path / "donor.model", "one", overwrite=True)
    with pytest.raises(OutputExistsError, match="was not written by zhuzi"):  # before hours of work, too
        require_free_file(tmp_path / "donor.model", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]


@pytest.mark.parametrize("endings", [("",), (".bin", ".idx")])
def test_after_a_kill_at_any_moment_the_next_run_works(endings: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "zh"
    for killed_at in range(1, 20):
        for path in tmp_path.iterdir():
            path.unlink()
        make(out, "old", endings=endings)
        with pytest.MonkeyPatch.context() as patch:
            calls = iter(range(1, 100))

            def stop(real: Callable[..., object]) -> Callable[..., object]:
                def act(*args: object, **options: object) -> object:
                    if next(calls) >= killed_at:  # noqa: B023
                        raise KeyboardInterrupt
                    return real(*args, **options)

                return act

            patch.setattr(Path, "replace", stop(Path.replace))
            patch.setattr(Path, "unlink", stop(Path.unlink))
            try:
                make(out, "new", overwrite=True, endings=endings)
            except KeyboardInterrupt:
                ended = False
            else:
                ended = True
        there = [path for ending in endings if (path := tmp_path / f"zh{ending}").exists()]
        assert {path.read_text()[:3] for path in there} <= {"old", "new"}
        if (tmp_path / "zh.idx").exists():
            assert (tmp_path / "zh.bin").read_text()[:3] == (tmp_path / "zh.idx").read_text()[:3]
        make(out, "new", overwrite=True, endings=endings)
        record = json.loads((tmp_path / "zh.zhuzi.json").read_bytes())
        assert "replaces" not in record
        if ended:
            break
    assert killed_at > 2 * len(endings)


def test_what_comes_to_a_file_during_the_work_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputExistsError, match="during the work"),
        new_file(tmp_path / "a", kind="t") as made,
    ):
        write(made, "ours")
        write(tmp_path / "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "mine"}


def test_no_file_is_put_where_it_would_be_read(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.txt")
    for name in ("b.txt", "b.jsonl.GZ", "b.bin"):
        with pytest.raises(OutputExistsError, match="would become a part of it"):
            require_free_file(tmp_path / "in" / name, overwrite=False, inputs=[tmp_path / "in"])
    require_free_file(tmp_path / "in" / "page.html", overwrite=False, inputs=[tmp_path / "in"])
    (tmp_path / "link").symlink_to(tmp_path / "in" / "a.txt")
    for pattern in ("*.txt", "**/*"):
        with pytest.raises(OutputExistsError, match="is read here"):
            require_free_file(tmp_path / "link", overwrite=True, inputs=[tmp_path / "in" / pattern, "-"])


def test_a_pattern_that_reads_in_the_output_folder(merged: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "一")
    out = zhuzi.encode_corpus(tmp_path / "a.txt", merged, tmp_path / "out").folder
    write(out / "more.txt", "二")
    with pytest.raises(OutputExistsError, match="which is read here"):
        zhuzi.encode_corpus([str(tmp_path / "*" / "*.txt")], merged, out, overwrite=True)
    assert (out / "more.txt").exists()


def test_what_commands_write_can_be_replaced(merged: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "一些文字\n更多\n")
    corpus = zhuzi.encode_corpus(tmp_path / "a.txt", merged, tmp_path / "out").folder
    stats = corpus_stats(corpus, merged)
    for overwrite in (False, True):
        merge_shards(corpus, tmp_path / "joined", overwrite=overwrite)
        export_datatrove(corpus, tmp_path / "trove", overwrite=overwrite)
        stats.write_html(tmp_path / "page.html", overwrite=overwrite)
        with pytest.raises(OutputExistsError, match="overwrite=True"):
            stats.write_html(tmp_path / "page.html")
    assert 'content="zhuzi ' in (tmp_path / "page.html").read_text()
    assert not (tmp_path / "page.html.zhuzi.json").exists()


# A full disk.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), errno.ENOSPC),
        (RuntimeError("Error while serializing: I/O error: File too large (os error 27)"), errno.EFBIG),
    ],
)
def test_a_full_disk_is_one_line_with_path_bytes_and_mend(
    error: Exception, code: int, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"free|larger|quota") as raised, new_folder(tmp_path / "out") as folder:
        write(folder / "weights", "1234567")
        raise error
    assert raised.value.errno == code
    assert raised.value.filename == str(tmp_path / "out")
    if code == errno.ENOSPC:
        assert "no space left after 7 bytes" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_another_failure_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), new_folder(tmp_path / "out"):
        raise RuntimeError("shape mismatch")


def test_missing_space_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 1000)
    with pytest.raises(OSError, match="needs 2,000 bytes, and 1,000 are free"):
        require_space(tmp_path / "not" / "there", 2000)
    with pytest.raises(OSError, match="needs 2,000"), new_folder(tmp_path / "out", size=2000):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_the_shell_through_the_real_process(
    base_model_file: Path, donor: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *[sys.executable, "-m", "zhuzi", "vocab", "merge", "--base", base_model_file, "--donor", donor],
            *["--out", tmp_path / "tok"],
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert f"zhuzi: {tmp_path / 'tok'}: a file would be larger than the limit of 100,000 bytes" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
