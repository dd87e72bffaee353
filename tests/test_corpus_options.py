"""What may be done to documents, which of them stay, and how it is shown."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import sentencepiece
from click.testing import CliRunner

import zhuzi
from corpus_tools import read_back, shards_and_manifest, write_lines
from zhuzi import CorpusOptions, OutputExistsError, Tokenizer
from zhuzi.cli import cli
from zhuzi.corpus import EncodedCorpus, encode_corpus_on_ray, plan_corpus, read_texts
from zhuzi.corpus.options import CorpusKeywords, ReadKeywords

TEXTS = [
    "ＡＢＣ１２３，！",
    "　　你好\u00a0世界\t\r\n\r\n\r\n再见 ",
    "短",
    "English only, no Han at all",
    "一半 half",
    "",
    "短",
    "\u0007\u200b",
    "很长" * 50,
]


def kept(merged: Path, out: Path) -> list[str]:
    tokenizer = Tokenizer.from_dir(merged)
    return [tokenizer.decode(ids) for ids in read_back(out)]


@pytest.mark.parametrize(
    ("options", "wanted", "counts"),
    [
        ({"fold_fullwidth": True}, {0: "ABC123，！"}, {"empty_documents": 1}),
        ({"clean": True}, {1: "你好 世界\n\n再见"}, {"empty_documents": 2}),
        ({"min_chars": 2}, {2: None, 6: None}, {"short_documents": 2, "empty_documents": 1}),
        ({"max_chars": 99}, {8: None}, {"long_documents": 1}),
        ({"max_chars": 100}, {}, {"long_documents": 0}),
        ({"min_han": 0.3}, {0: None, 3: None, 7: None}, {"foreign_documents": 3}),
        ({"dedup": True}, {6: None}, {"duplicate_documents": 1}),
        ({"limit": 3}, dict.fromkeys(range(3, 9)), {"documents": 3, "empty_documents": 0}),
        ({"limit": 3, "dedup": True, "min_chars": 2}, dict.fromkeys([2, *range(4, 9)]), {"documents": 3}),
        ({"sample": 0.0, "clean": True}, None, {"unsampled_documents": 7}),
        ({"sample": 1.0}, {}, {"unsampled_documents": 0}),
    ],
)
def test_options(
    options: dict[str, object],
    wanted: dict[int, str | None] | None,
    counts: dict[str, int],
    merged: Path,
    tmp_path: Path,
) -> None:
    path = write_lines(tmp_path / "a.jsonl", TEXTS)
    other = write_lines(tmp_path / "b.jsonl", ["铸字"])  # so that something stays
    inputs = [path, other] if "limit" not in options else [path]
    if wanted is None:
        with pytest.raises(ValueError, match="no document that is kept"):
            zhuzi.encode_corpus(inputs, merged, tmp_path / "out", **options)  # type: ignore[arg-type]
        return
    made = zhuzi.encode_corpus(inputs, merged, tmp_path / "out", **options)  # type: ignore[arg-type]
    plain = {n: t for n, t in enumerate(TEXTS) if t and not (options.get("clean") and n == 7)}
    texts = [t for _, t in sorted({**plain, **wanted}.items()) if t is not None]
    got = kept(merged, made.folder)
    assert got[: len(texts)] == texts
    manifest = json.loads((made.folder / "manifest.json").read_text())
    for name, count in counts.items():
        assert getattr(made, name) == manifest[name] == count, name
    left_out = sum(v for k, v in manifest.items() if k.endswith("_documents") and isinstance(v, int))
    assert "limit" in options or made.documents + left_out == len(TEXTS) + 1


def test_lengths_count_after_cleaning(merged: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["  一二  ", "𠮷野家"])
    made = zhuzi.encode_corpus([path], merged, tmp_path / "out", clean=True, min_chars=3)
    assert kept(merged, made.folder) == ["𠮷野家"], "code points, not bytes or UTF-16"
    assert made.characters == 3


def test_what_depends_on_order_does_not_depend_on_threads(
    merged: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    rng = random.Random(3)
    inputs = [
        write_lines(
            tmp_path / f"{n}.jsonl",
            [rng.choice(chinese_texts[:80]) + str(rng.randrange(20)) for _ in range(3000)],
        )
        for n in range(3)
    ]
    first: dict[str, bytes] = {}
    for threads in (1, 2, 5):
        made = zhuzi.encode_corpus(
            inputs, merged, tmp_path / str(threads), num_threads=threads, shard_bytes=400_000,
            dedup=True, sample=0.7, limit=900,
        )  # fmt: skip
        assert made.documents == 900 and made.duplicate_documents > 100 and made.unsampled_documents > 100
        first = first or shards_and_manifest(made.folder)
        assert shards_and_manifest(made.folder) == first
    documents = read_back(made.folder)
    assert len({tuple(d) for d in documents}) == 900
    assert zhuzi.encode_corpus(
        inputs, merged, made.folder, shard_bytes=400_000, dedup=True, sample=0.7, limit=900
    ).outcome == "already"  # fmt: skip


def test_bos_and_eos(merged: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["一", "二"])
    tokenizer = Tokenizer.from_dir(merged)
    zhuzi.encode_corpus([path], merged, tmp_path / "out", bos=True)
    assert read_back(tmp_path / "out") == [
        tokenizer.encode(t, add_bos=True, add_eos=True) for t in ("一", "二")
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["bos"], manifest["eos"]) == (True, True)


def test_ids_of_a_new_sample(merged: Path, reference: Path, tmp_path: Path) -> None:
    """Documents drawn anew each time from the reference corpora, against sentencepiece itself."""
    from texts import reference_corpora

    seed = random.randrange(1 << 30)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    texts = [t for _, documents in reference_corpora(reference) for t in rng.sample(documents, 12) if t]
    path = write_lines(tmp_path / "a.jsonl", texts)
    zhuzi.encode_corpus([path], merged, tmp_path / "out")
    peer = sentencepiece.SentencePieceProcessor(model_file=str(merged / "tokenizer.model"))
    assert read_back(tmp_path / "out") == [[*ids, 2] for ids in peer.encode(texts)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"min_chars": 5, "max_chars": 4}, "no document would be left"),
        ({"sample": 1.5}, "between 0 and 1"),
        ({"separator": "x"}, "belong together"),
        ({"split": "separator"}, "belong together"),
        ({"split": "separator", "separator": ""}, "an empty separator"),
        ({"field": []}, "at least one field"),
        ({"shard_bytes": 0}, "`shard_bytes` must be at least 1"),
        ({"on_error": "ignore"}, "'stop' or 'skip'"),
        ({"part": (2, 2)}, "numbered from 0 to 1"),
        ({"sample": float("nan")}, "`sample` must be between 0 and 1"),
        ({"limit": -1}, "`limit` must be at least 0 and below 2.*64, not -1"),
        ({"max_chars": 1 << 64}, "`max_chars` must be at least 0 and below 2"),
        ({"split": "lines"}, "split must be 'line', 'blank-line', 'separator' or 'file', not \"lines\""),
        ({"stdin_format": "parquet"}, "stdin_format must be 'jsonl' or 'txt', not \"parquet\""),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, object], reason: str, merged: Path, chinese_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        zhuzi.encode_corpus([chinese_file], merged, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


class TestCorpusOptions:
    """One dataclass holds the options; keywords and the command line are typed and filled from it."""

    def test_keywords_are_the_fields(self) -> None:
        hints = get_type_hints(CorpusOptions)
        assert list(hints) == [field.name for field in fields(CorpusOptions)]
        assert get_type_hints(CorpusKeywords) == hints
        assert get_type_hints(ReadKeywords).keys() < hints.keys()

    def test_every_field_says_what_it_is(self) -> None:
        source = Path(sys.modules[CorpusOptions.__module__].__file__ or "").read_text("utf-8")
        body = source.split("class CorpusOptions")[1].split("def __post_init__")[0].splitlines()
        for field in fields(CorpusOptions):
            line = next(n for n, line in enumerate(body) if line.startswith(f"    {field.name}: "))
            assert body[line + 1].startswith('    """'), field.name

    def test_an_option_is_not_changed_in_place(self) -> None:
        names = ["a", "b"]
        options = CorpusOptions(field=names)
        with pytest.raises(FrozenInstanceError):
            options.bos = True  # type: ignore[misc]
        names.append("c")
        assert options == CorpusOptions(field=("a", "b")) and hash(options) == hash(replace(options))
        with pytest.raises(ValueError, match="belong together"):
            replace(options, separator="x")

    def test_the_same_corpus_by_keywords_and_by_options(self, merged: Path, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", TEXTS)
        zhuzi.encode_corpus(path, merged, tmp_path / "keywords", bos=True, eos=False, clean=True, min_chars=2)
        options = CorpusOptions(bos=True, eos=False, clean=True, min_chars=2)
        made = zhuzi.encode_corpus(path, merged, tmp_path / "options", options=options)
        assert made.short_documents == 2
        assert shards_and_manifest(tmp_path / "keywords") == shards_and_manifest(made.folder)
        assert zhuzi.encode_corpus(path, merged, tmp_path / "keywords", options=options).outcome == "already"
        plans = plan_corpus(path, merged, options=options), plan_corpus(path, merged, min_chars=2, clean=True)
        assert plans[0].documents == plans[1].documents == made.documents

    @pytest.mark.parametrize("function", [zhuzi.encode_corpus, encode_corpus_on_ray])
    def test_wrong_keywords(self, function: Callable[..., Any], tmp_path: Path) -> None:
        out = tmp_path / "out"
        with pytest.raises(TypeError, match=r"not both; dataclasses\.replace"):
            function("a.txt", "merged", out, options=CorpusOptions(), eos=False)
        wrong = rf"{function.__name__}\(\) has no argument 'min_char'; did you mean min_chars\?"
        with pytest.raises(TypeError, match=wrong):
            function("a.txt", "merged", out, min_char=3)
        with pytest.raises(TypeError, match="'threads'; did you mean num_threads"):
            function("a.txt", "merged", out, threads=3)
        assert not out.exists()

    def test_wrong_types(self) -> None:
        with pytest.raises(TypeError, match="limit must be a whole number, not '3'"):
            CorpusOptions(limit="3")  # type: ignore[arg-type]
        for name, value in {"bos": "yes", "field": ["a", 3], "sample": "half", "limit": 2.5}.items():
            with pytest.raises(TypeError, match=rf"CorpusOptions\.{name}"):
                CorpusOptions(**{name: value})  # type: ignore[arg-type]

    def test_reading_takes_what_is_about_reading(self, chinese_file: Path) -> None:
        with pytest.raises(TypeError, match=r"read_texts\(\) has no argument 'dedup'"):
            read_texts(chinese_file, dedup=True)  # type: ignore[call-arg]

    def test_the_command_line_has_its_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[CorpusOptions] = []

        def encode(*_: object, options: CorpusOptions, **__: object) -> EncodedCorpus:
            given.append(options)
            raise ValueError("enough")

        monkeypatch.setattr("zhuzi.corpus.encode_corpus", encode)
        line = ["corpus", "encode", "a.txt", "--tokenizer", "merged", "--out", "out"]
        CliRunner().invoke(cli, line)
        more = ["--field", "a", "--field", "b", "--separator", r"\n\n", "--no-eos", "--sample", "0.5"]
        CliRunner().invoke(cli, [*line, *more])
        assert given[0] == replace(CorpusOptions(), field=["text"])
        assert given[1] == CorpusOptions(
            field=["a", "b"], split="separator", separator="\n\n", eos=False, sample=0.5
        )


def test_a_plan_writes_nothing(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in" / "zh.jsonl", chinese_texts * 20)
    made = zhuzi.encode_corpus([path], merged, tmp_path / "out", shard_bytes=500_000)
    plan = plan_corpus([path], merged, shard_bytes=500_000)
    assert (plan.tasks, plan.shards, plan.bytes) == (made.tasks, made.shards, path.stat().st_size)
    assert abs(plan.tokens / made.tokens - 1) < 0.1 and abs(plan.documents / made.documents - 1) < 0.1
    line = ["corpus", "encode", str(path.parent), "--tokenizer", str(merged), "--out", str(tmp_path / "no")]
    shown = CliRunner().invoke(cli, [*line, "--dry-run"])
    assert shown.exit_code == 0 and "nothing was written" in shown.output and str(path) in shown.output
    assert not (tmp_path / "no").exists()


def test_a_dry_run_says_that_the_output_would_be_refused(
    merged: Path, chinese_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = ["corpus", "encode", str(chinese_file), "--tokenizer", str(merged), "--out", str(out), "--dry-run"]

    def shown(*more: str) -> str:
        done = CliRunner().invoke(cli, [*line, *more])
        assert done.exit_code == 0, done.output
        return done.output

    assert "refused" not in shown() and not out.exists()
    zhuzi.encode_corpus(chinese_file, merged, out)
    before = shards_and_manifest(out)
    assert "refused" not in shown() and "refused" not in shown("--append")
    text = shown("--no-eos")
    assert "would be refused" in text and "the option eos (false, it was true)" in text
    assert "start anew with --overwrite" in text
    assert "refused" not in shown("--no-eos", "--overwrite")
    plan = plan_corpus(chinese_file, merged, out=out, eos=False)
    assert isinstance(plan.refused, OutputExistsError) and plan.text().endswith(f"refused: {plan.refused}")
    assert shards_and_manifest(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    for overwrite in (False, True):
        mine = plan_corpus(chinese_file, merged, out=tmp_path / "mine", overwrite=overwrite)
        assert mine.refused is not None and mine.documents > 0
    assert plan_corpus(chinese_file, merged, out=chinese_file).refused is not None


def test_a_plan_does_not_count_standard_input(merged: Path, chinese_file: Path) -> None:
    assert "standard input is not counted" in plan_corpus([chinese_file, "-"], merged).text()
    assert "standard input" not in plan_corpus([chinese_file], merged).text()


def test_what_is_shown(merged: Path, chinese_texts: list[str], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "zh.jsonl", [*chinese_texts * 30, ""])
    line = ["corpus", "encode", str(path), "--tokenizer", str(merged), "--out"]
    text = CliRunner().invoke(cli, [*line, str(tmp_path / "text")])
    assert text.exit_code == 0, text.output
    assert f"{30 * len(chinese_texts):,} documents" in text.output and "MB/s of text" in text.output
    assert "left out: 1 document without characters" in text.output
    lines = CliRunner().invoke(cli, [*line, str(tmp_path / "json"), "--log-format", "json"])
    events = [json.loads(line) for line in lines.output.splitlines()]
    assert events[-1]["event"] == "finished" and events[-1]["empty_documents"] == 1
    assert {e["event"] for e in events[:-1]} <= {"progress"}
    run = json.loads((tmp_path / "json" / "run.json").read_text())
    assert run["input_bytes_this_run"] == path.stat().st_size and set(run["thread_seconds"]) == {
        "read", "parse", "encode", "write", "commit",
    }  # fmt: skip
