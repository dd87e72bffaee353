"""Merging with options: scores, filters, repair, donors, the order by use, added tokens, the report."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest
import sentencepiece
from click.testing import CliRunner

from protobuf import NORMAL
from random_models import ALPHABETS, model, nmt_nfkc, random_pieces
from zhuzi import Tokenizer
from zhuzi.cli import cli
from zhuzi.errors import InputError, ModelFileError, OutputExistsError
from zhuzi.vocab import MergedVocab, MergeOptions, dead_pieces, merge_vocab
from zhuzi.vocab.engines import compare
from zhuzi.vocab.merge_options import MergeKeywords


def peer_of(made: MergedVocab) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(made.folder / "tokenizer.model"))


def small(path: Path, pieces: list[tuple[str, float, int]], **settings: object) -> Path:
    given = {"byte_fallback": True, "dummy_prefix": True, "trims": False, "charsmap": b"", **settings}
    path.write_bytes(model(pieces, **given))  # type: ignore[arg-type]
    return path


def words(*texts: str, kind: int = NORMAL) -> list[tuple[str, float, int]]:
    """Pieces with decreasing scores, the characters first."""
    letters = dict.fromkeys("".join(texts))
    every = [*letters, *(text for text in texts if text not in letters)]
    return [(text, -1.0 - i, kind if text in texts else NORMAL) for i, text in enumerate(every)]


# Scores.


def test_ordered_scores_are_above_the_base_and_differ(
    base_model_file: Path, donor: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    made = merge_vocab(base_model_file, donor, tmp_path / "out", policy="ordered")
    paper = merge_vocab(base_model_file, donor, tmp_path / "paper")
    peer, pieces = peer_of(made), Tokenizer.from_dir(made.folder).pieces()
    scores = [piece.score for piece in pieces[made.base_size :]]
    assert scores == sorted(set(scores), reverse=True)
    top = max(piece.score for piece in pieces[: made.base_size] if piece.kind == "NORMAL")
    assert scores[-1] > top
    assert [p.text for p in pieces] == [p.text for p in Tokenizer.from_dir(paper.folder).pieces()]
    tokenizer = Tokenizer.from_dir(made.folder)
    assert all(tokenizer.encode(text) == peer.encode(text) for text in chinese_texts)


@pytest.mark.parametrize("repair", [False, True])
def test_every_engine_gives_the_ids_of_an_ordered_vocabulary(
    repair: bool, base_model_file: Path, donor: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    made = merge_vocab(base_model_file, donor, tmp_path / "out", policy="ordered", repair=repair)
    parity = compare(made.folder, chinese_texts)
    assert parity.exact, parity
    assert {engine.engine for engine in parity.engines if engine.exact} >= {"sentencepiece", "tokenizers"}


def test_a_base_whose_scores_leave_no_room_is_named(tmp_path: Path) -> None:
    base = small(tmp_path / "base.model", [("a", 0.0, NORMAL), ("aa", float("inf"), NORMAL)])
    donor = small(tmp_path / "donor.model", words("中国"))
    with pytest.raises(ModelFileError, match=r"base\.model: piece 258 `aa` has the score inf.*policy paper"):
        merge_vocab(base, donor, tmp_path / "out", policy="ordered")


# Filters.


def test_filters_take_what_they_say(reference: Path, tmp_path: Path) -> None:
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    plain = merge_vocab(base, donor, tmp_path / "plain")

    def is_digit(c: str) -> bool:
        return c in "0123456789０１２３４５６７８９"

    kept = {
        "ascii": lambda p: not p.replace("▁", "").isascii(),
        "digits": lambda p: len(p) == 1 or not any(map(is_digit, p)),
        "max_length": lambda p: len(p) <= 3,
    }
    assert sum(not kept["ascii"](piece.piece) for piece in plain.new_pieces) == 648
    for name, value in {"ascii": False, "digits": False, "max_length": 3}.items():
        made = merge_vocab(base, donor, tmp_path / name, **{name: value})  # type: ignore[arg-type]
        expected = [piece.piece for piece in plain.new_pieces if kept[name](piece.piece)]
        assert [piece.piece for piece in made.new_pieces] == expected
        reason = {"max_length": "length"}.get(name, name)
        assert len(made.without(reason)) == plain.appended - made.appended


def test_with_han_a_text_without_han_keeps_its_ids(
    base_model_file: Path, donor: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    old = Tokenizer.from_sentencepiece(base_model_file)
    made = merge_vocab(base_model_file, donor, tmp_path / "out", scripts="han", policy="ordered", repair=True)
    new = Tokenizer.from_dir(made.folder)
    others = "".join(c for text in chinese_texts for c in text if not "⺀" <= c <= "\U0003347f" or c == "。")
    for text in (others, "The people create 20,000 videos.\n\tx = 1", "пример, 日".replace("日", "")):
        assert new.encode(text) == old.encode(text)
    assert made.without("script") and not made.dead and not made.killed


# Repair.


def test_the_published_pair_is_repaired(reference: Path, tmp_path: Path) -> None:
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    plain = merge_vocab(base, donor, tmp_path / "plain")
    assert (len(plain.dead), len(plain.killed)) == (345, 194)
    assert "意大利" in plain.dead and "▁people" in plain.killed
    for policy in ("ordered", "paper"):
        made = merge_vocab(base, donor, tmp_path / policy, policy=policy, repair=True)  # type: ignore[arg-type]
        assert dead_pieces(made.folder) == ()
        assert made.appended == plain.appended, "the room that came free was used"
        assert {"意大", "国务"} <= set(made.inner)
        taken = {piece.piece for piece in made.new_pieces}
        assert {"意大利", "国务院"} <= taken
        assert len(made.without("breaks")) <= 20
        assert len(made.without("unreachable")) + len(made.without("breaks")) == len(made.inner)
    wide = merge_vocab(base, donor, tmp_path / "wide", policy="ordered", repair=True, top=20_000)
    assert wide.appended > plain.appended and not wide.without("unreachable")


def random_pairs(seeds: range, tmp_path: Path) -> Iterator[tuple[random.Random, str, Path, list[Path]]]:
    """Bases and donors of random pieces over one alphabet."""
    for seed in seeds:
        rng = random.Random(seed)
        alphabet = rng.choice(ALPHABETS)
        settings = {
            "byte_fallback": rng.random() < 0.5,
            "dummy_prefix": rng.random() < 0.5,
            "trims": rng.random() < 0.2,
            "charsmap": nmt_nfkc() if rng.random() < 0.2 else b"",
        }
        files = []
        for name in ("base", "one", "two")[: rng.choice([2, 2, 3])]:
            files.append(small(tmp_path / f"{seed}-{name}.model", random_pieces(rng, alphabet), **settings))
        yield rng, alphabet, files[0], files[1:]


@pytest.mark.parametrize("block", range(4))
def test_after_a_repair_no_piece_is_dead_that_was_not_so_in_the_base(block: int, tmp_path: Path) -> None:
    merges = 0
    for rng, alphabet, base, donors in random_pairs(range(60 * block, 60 * block + 60), tmp_path):
        options = MergeOptions(
            policy=rng.choice(["paper", "ordered"]), repair=True, top=rng.choice([None, None, 3, 10, 40])
        )
        before = {piece.piece for piece in dead_pieces(base)}
        try:
            made = merge_vocab(base, donors, tmp_path / base.stem, options=options)
        except ModelFileError as error:
            assert any(reason in str(error) for reason in ("already has", "left out", "score"))
            continue
        merges += 1
        dead = dead_pieces(made.folder)
        assert {piece.piece for piece in dead} <= before, base
        assert all(piece.id < made.base_size for piece in dead)
        assert options.top is None or made.appended <= options.top
        peer, tokenizer = peer_of(made), Tokenizer.from_dir(made.folder)
        for _ in range(40):
            text = "".join(rng.choices(alphabet.replace("▁", " "), k=rng.randint(1, 14)))
            assert tokenizer.encode(text) == peer.encode(text)
    assert merges > 20


def test_what_is_said_to_be_dead_or_killed_is_so(tmp_path: Path) -> None:
    for _, _, base, donors in random_pairs(range(1000, 1120), tmp_path):
        if nmt_nfkc() in base.read_bytes():
            continue  # which keeps other pieces out of a text
        try:
            made = merge_vocab(base, donors, tmp_path / base.stem)
        except ModelFileError:
            continue
        found = dead_pieces(made.folder)
        before = {piece.id for piece in dead_pieces(base)}
        trims = {piece.piece for piece in found if "▁▁" in piece.piece}
        new = {piece.piece for piece in found if piece.id >= made.base_size}
        old = {piece.piece for piece in found if piece.id < made.base_size and piece.id not in before}
        assert set(made.dead) - trims == new - trims and set(made.killed) - trims == old - trims


def test_one_piece_that_others_are_made_of_is_added(tmp_path: Path) -> None:
    base = small(tmp_path / "base.model", words("人民", *"意大利国务院澳"))
    donor = small(tmp_path / "donor.model", [("意大利", -1.0, NORMAL), ("国务院", -2.0, NORMAL)])
    plain = merge_vocab(base, donor, tmp_path / "plain", policy="ordered")
    assert plain.dead == ("意大利", "国务院")
    made = merge_vocab(base, donor, tmp_path / "two", policy="ordered", repair=True)
    assert [piece.piece for piece in made.new_pieces] == ["意大", "意大利"]
    assert [(piece.piece, piece.about) for piece in made.without("unreachable")] == [("国务院", "国 务 院")]
    made = merge_vocab(base, donor, tmp_path / "four", policy="ordered", repair=True, top=4)
    assert [piece.piece for piece in made.new_pieces] == ["意大", "意大利", "国务", "国务院"]
    assert made.inner == ("意大", "国务")
    assert "国务院" in peer_of(made).encode("国务院", out_type=str)


def test_what_breaks_an_old_piece_stays_out(tmp_path: Path) -> None:
    base = small(tmp_path / "base.model", words("ab", "cd", "abcd"))
    donor = small(tmp_path / "donor.model", words("bc", "ad"))
    plain = merge_vocab(base, donor, tmp_path / "plain", policy="ordered")
    assert plain.killed == ("abcd",)
    made = merge_vocab(base, donor, tmp_path / "out", policy="ordered", repair=True)
    assert [piece.piece for piece in made.new_pieces] == ["ad"]
    assert [(piece.piece, piece.about) for piece in made.without("breaks")] == [("bc", "abcd")]


# Several donors, and the order by use.


def test_several_donors_are_counted_apart(tmp_path: Path) -> None:
    base = small(tmp_path / "base.model", words(*"中国人民"))
    one = small(tmp_path / "one.model", words("中国", "国人"))
    two = small(tmp_path / "two.model", words("人民", "中国", "中a"))
    made = merge_vocab(base, [one, two], tmp_path / "out", policy="ordered")
    assert [(piece.piece, piece.donor) for piece in made.new_pieces] == [
        ("中国", 0), ("国人", 0), ("a", 1), ("人民", 1), ("中a", 1),
    ]  # fmt: skip
    assert [donor.appended for donor in made.donors] == [2, 3]
    assert made.donors[1].left_out["in_earlier_donor"] == 1
    assert all(donor.pieces == donor.appended + sum(donor.left_out.values()) for donor in made.donors)
    record = json.loads((made.folder / "zhuzi.json").read_text())
    assert record["donor"] == [str(one), str(two)]
    with pytest.raises(ModelFileError, match="every piece of the donors"):
        merge_vocab(made.folder, [one, two], tmp_path / "again")
    with pytest.raises(ValueError, match=r"one\.model: given twice; give each donor once"):
        merge_vocab(base, [one, two, one], tmp_path / "twice")
    for token in (" [PAD]", "a\nb", "a\x7f"):
        with pytest.raises(ValueError, match=r"added token .*: has white space around it"):
            merge_vocab(base, one, tmp_path / "token", add_tokens=[token])


def test_pieces_are_ordered_by_their_use(
    base_model_file: Path, donor: Path, chinese_file: Path, chinese_texts: list[str], tmp_path: Path
) -> None:
    made = merge_vocab(
        base_model_file, donor, tmp_path / "out", policy="ordered", corpus=chinese_file, repair=True
    )
    uses = [piece.uses or 0 for piece in made.new_pieces]
    assert uses[0] > 20
    assert sum(a < b for a, b in pairwise(uses)) < len(uses) / 20, "but for added pieces"
    assert made.counted_bytes == chinese_file.stat().st_size
    first = merge_vocab(
        base_model_file,
        donor,
        tmp_path / "top",
        policy="ordered",
        corpus=[chinese_file],
        repair=True,
        top=500,
    )
    by_donor = merge_vocab(
        base_model_file, donor, tmp_path / "donors", policy="ordered", repair=True, top=500
    )
    assert first.appended == by_donor.appended == 500
    assert {piece.piece for piece in first.new_pieces[:300]} <= {
        piece.piece for piece in made.new_pieces[:400]
    }
    lengths = [
        sum(map(len, Tokenizer.from_dir(m.folder).encode_batch(chinese_texts))) for m in (first, by_donor)
    ]
    assert lengths[0] < lengths[1], "the most used make texts shorter"
    again = merge_vocab(
        base_model_file, donor, tmp_path / "again", policy="ordered", corpus=[chinese_file],
        repair=True, top=500, num_threads=3,
    )  # fmt: skip
    assert (again.folder / "tokenizer.model").read_bytes() == (first.folder / "tokenizer.model").read_bytes()


def test_uses_are_those_of_tokens_and_of_longer_pieces(tmp_path: Path) -> None:
    base = small(tmp_path / "base.model", words(*"中国人"), dummy_prefix=False)
    donor = small(tmp_path / "donor.model", words("国人", "中国", "中国人"))
    text = tmp_path / "a.txt"
    text.write_text("中国人\n国人中国中国\n")
    made = merge_vocab(base, donor, tmp_path / "out", policy="ordered", corpus=text)
    # 中国人 becomes 中, 国人, then 中国人: 国人 comes first in the donor.
    assert {piece.piece: piece.uses for piece in made.new_pieces} == {"国人": 2, "中国": 2, "中国人": 1}
    text.write_text("\n")
    with pytest.raises(InputError, match="no text"):
        merge_vocab(base, donor, tmp_path / "none", corpus=text)


# Added tokens.


def chatml(folder: Path, model_file: Path, rows: int | None) -> Path:
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model_file.read_bytes())
    size = sentencepiece.SentencePieceProcessor(model_file=str(model_file)).get_piece_size()
    tokens = {"<|im_end|>": size, "<|im_start|>": size + 1, "<extra>": size + 2}
    (folder / "added_tokens.json").write_text(json.dumps(tokens))
    if rows is not None:
        (folder / "config.json").write_text(json.dumps({"vocab_size": size + rows}))
    return folder


@pytest.mark.parametrize(("rows", "kept"), [(0, 0), (2, 2), (64, 3), (None, 3)])
def test_added_tokens_with_a_row_keep_their_ids(
    rows: int | None, kept: int, base_model_file: Path, donor: Path, tmp_path: Path
) -> None:
    base = chatml(tmp_path / "base", base_model_file, rows)
    made = merge_vocab(
        base,
        donor,
        tmp_path / "out",
        policy="ordered",
        added_tokens="keep",
        add_tokens=["[PAD]", "<|im_end|>"],
    )
    old, new, peer = Tokenizer.from_dir(base), Tokenizer.from_dir(made.folder), peer_of(made)
    tokens = ["<|im_end|>", "<|im_start|>", "<extra>"]
    assert made.kept == {token: old.token_to_id(token) for token in tokens[:kept]}
    assert list(made.moved) == tokens[kept:]
    assert new.added_tokens == (*tokens[kept:], "[PAD]")
    for id in range(made.base_size + kept):
        assert new.id_to_token(id) == old.id_to_token(id)
    assert new.vocab_size == made.base_size + 3 + made.appended + 1
    text = "<|im_start|>用户<|im_end|>人工智能<extra>"
    assert new.encode(text) == peer.encode(text)
    assert not {new.token_to_id(token) for token in tokens} & set(new.encode(text))
    assert new.decode([new.token_to_id(token) or 0 for token in tokens]) == ""
    config = json.loads((made.folder / "tokenizer_config.json").read_text())
    assert set(tokens) <= {entry["content"] for entry in config["added_tokens_decoder"].values()}


# The report, the command, and mistakes.


def test_a_report_says_why_for_every_piece(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = ["vocab", "merge", "--base", base_model_file, "--donor", donor, "--out", tmp_path / "out"]
    command += [
        "--policy",
        "ordered",
        "--repair",
        "--no-ascii",
        "--no-digits",
        "--top",
        1000,
        "--report",
        report,
    ]
    done = CliRunner().invoke(cli, [str(word) for word in command], catch_exceptions=False)
    assert done.exit_code == 0
    held = json.loads(report.read_text())
    pieces = [piece["piece"] for piece in held["new_pieces"] if piece["donor"] == 0]
    for reason, group in held["left_out"].items():
        pieces += [piece["piece"] for piece in group["pieces"]]
        if group["pieces"] and reason not in ("in_base", "no_text"):
            assert group["why"] in done.output
    peer = sentencepiece.SentencePieceProcessor(model_file=str(donor))
    assert sorted(pieces) == sorted(map(peer.id_to_piece, range(peer.get_piece_size())))
    assert held["appended"] == 1000 and held["left_out"]["ascii"]["pieces"]
    again = CliRunner().invoke(cli, [str(word) for word in [*command, "--overwrite"]])
    assert again.exit_code == 0 and json.loads(report.read_text()) == held


def test_mistakes_are_said_in_one_line(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="`scripts` must be 'han' or 'all', not 'latin'"):
        merge_vocab(base_model_file, donor, out, scripts="latin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`top` must be at least 1"):
        merge_vocab(base_model_file, donor, out, top=0)
    with pytest.raises(TypeError, match="max_length must be a whole number"):
        merge_vocab(base_model_file, donor, out, max_length=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`report` is .*inside the folder"):
        merge_vocab(base_model_file, donor, out, report=out / "report.json")
    with pytest.raises(OutputExistsError):
        merge_vocab(base_model_file, donor, out, report=donor)
    with pytest.raises(TypeError, match="not both"):
        merge_vocab(base_model_file, donor, out, options=MergeOptions(), repair=True)
    ascii_base, ascii_donor = (small(tmp_path / f"{text}.model", words(text)) for text in ("ab", "abc"))
    with pytest.raises(ModelFileError, match=r"abc\.model: all 2 pieces .* by the options; ask for less"):
        merge_vocab(ascii_base, ascii_donor, out, ascii=False)
    assert not out.exists()


def test_the_options_are_those_of_the_keywords() -> None:
    hints = get_type_hints(MergeOptions)
    assert {field.name: hints[field.name] for field in fields(MergeOptions)} == get_type_hints(MergeKeywords)
