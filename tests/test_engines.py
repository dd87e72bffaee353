"""Every engine gives the ids of sentencepiece wherever it can; where it cannot, that is said and shown."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest

from texts import HARD_TEXTS
from zhuzi import Tokenizer, merge_vocab
from zhuzi.vocab import engines, extend_vocab
from zhuzi.vocab.fast_file import why_inexact

LITERAL = ["a</s>b<s>", "<unk> [PAD] <pad>", "用户</s>助手", "<0x0A>", "▁▁x ▁", "\0x"]
SPACES = [" " * n + "x" for n in range(70)]


@pytest.fixture(scope="module")
def ordered(base_model_file: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ordered") / "tokenizer"
    return merge_vocab(
        base_model_file, donor, out, policy="ordered", repair=True, add_tokens=["[PAD]"]
    ).folder


def present(parity: engines.Parity) -> list[engines.EngineParity]:
    return [engine for engine in parity.engines if engine.absent is None]


def test_a_base_is_the_same_everywhere(base_model_file: Path, chinese_texts: list[str]) -> None:
    """Its runs of white space share one score; that this does no harm is proved before it is relied on."""
    texts = chinese_texts + HARD_TEXTS + LITERAL + SPACES
    parity = engines.compare(base_model_file, texts)
    assert why_inexact(engines.load(base_model_file)) is None
    assert parity.exact and parity.documents == len(texts)
    for engine in present(parity):
        assert engine.exact and engine.documents == len(texts) and engine.note is None, engine


def test_ties_are_exact_but_for_tokenizers(merged: Path, chinese_texts: list[str]) -> None:
    parity = engines.compare(merged, chinese_texts + HARD_TEXTS + LITERAL)
    found = {engine.engine: engine for engine in present(parity)}
    for name in found.keys() - {"tokenizers"}:
        assert found[name].exact and found[name].note is None, found[name]
    if (theirs := found.get("tokenizers")) is not None:
        assert "share their scores" in (theirs.note or "")
        assert theirs.differing and not theirs.exact and not parity.exact
        assert theirs.first is not None and theirs.first.ours != theirs.first.theirs
        text = (chinese_texts + HARD_TEXTS + LITERAL)[theirs.first.document]
        assert theirs.first.context in text
        before, ours = Tokenizer.from_dir(merged).encode(text)[: theirs.first.token], theirs.first.ours
        assert ours[:2] == tuple(map(Tokenizer.from_dir(merged).id_to_token, before[-2:]))


@pytest.mark.parametrize("scripts", ["han", "all"])
def test_an_extended_vocabulary_is_the_same_everywhere(
    scripts: Literal["han", "all"],
    base_model_file: Path,
    chinese_file: Path,
    chinese_texts: list[str],
    tmp_path: Path,
) -> None:
    """Its new scores lie below the base's, which has pieces of several Han characters itself."""
    made = extend_vocab(
        chinese_file, base_model_file, tmp_path / "t", new_pieces=2000, scripts=scripts, characters="none"
    )
    assert made.placement == "below"
    texts = chinese_texts + HARD_TEXTS + LITERAL + SPACES
    for parse_special in (False, True):
        names = [*engines.ENGINES[1:], engines.ZHUZI_TOKENIZER]
        parity = engines.compare(made.folder, texts, engines=names, parse_special=parse_special)
        assert parity.exact and all(engine.note is None for engine in parity.engines), parity


def test_special_tokens_are_recognised_in_the_same_way(
    merged: Path, ordered: Path, chinese_texts: list[str]
) -> None:
    """After a special token the text begins anew, with a `▁` of its own, in every engine."""
    for folder in (merged, ordered):
        special = list(engines.special_tokens(engines.load(folder)))
        assert special == ["<unk>", "<s>", "</s>", "[PAD]"]
        draw = random.Random(0)
        texts = LITERAL + SPACES + ["</s>", "</s></s>", "</s> </s>", "</s>  x</s>\n", "</s", "<</s>>"]
        for text in chinese_texts + HARD_TEXTS:
            at = draw.randint(0, len(text))
            texts.append(text[:at] + draw.choice(special) + text[at:] + draw.choice(["", *special]))
        names = [*engines.ENGINES[1:], engines.ZHUZI_TOKENIZER]
        if folder == merged:
            names.remove("tokenizers")
        parity = engines.compare(folder, texts, engines=names, parse_special=True)
        assert parity.exact, parity
        assert "text for it" in parity.absent["sentencepiece"]
        assert engines.compare(folder, texts, engines=names).exact  # and as text
    parity = engines.compare(merged, texts, engines=["tokenizers"], parse_special=True)
    if not parity.absent:
        (first,) = [engine.first for engine in parity.engines]
        assert first is not None and first.context in texts[first.document]
        assert first.ours != first.theirs


def test_an_engine_that_is_not_installed_is_named(
    base_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "installed", lambda package: None)
    parity = engines.compare(base_model_file, ["春天"])
    absent = {engine.engine: engine.absent for engine in parity.engines if engine.absent}
    assert absent.keys() == {"tokenizers", "llama.cpp"}
    assert all("not installed: pip install" in str(reason) for reason in absent.values())
    assert "not installed" in str(parity) and parity.absent == absent
    with pytest.raises(ValueError, match="no engine is called 'spacy'"):
        engines.compare(base_model_file, [], engines=["spacy"])
