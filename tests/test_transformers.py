"""A tokenizer folder in plain transformers: BOS and sentencepiece's ids, or a clear failure."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece

from texts import HARD_TEXTS, reference_corpora
from zhuzi import Tokenizer

transformers = pytest.importorskip("transformers")


def test_auto_tokenizer_gives_the_same_ids(merged: Path, chinese_texts: list[str]) -> None:
    ours, theirs = Tokenizer.from_dir(merged), transformers.AutoTokenizer.from_pretrained(merged)
    assert (len(theirs), theirs.pad_token_id) == (ours.vocab_size, ours.pad_id)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    for text in chinese_texts + HARD_TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text, add_bos=True), text
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text), text


def test_bos_as_tuning_and_chat_have_it(merged: Path, tmp_path: Path) -> None:
    """By default and where it is asked for; never from text, and never where the model has none."""
    ours = Tokenizer.from_dir(merged)
    for asked in ({}, {"add_bos_token": True}):
        theirs = transformers.AutoTokenizer.from_pretrained(merged, **asked)
        for text in ("春天 hello", "<s>春天</s>", ""):
            encoded = theirs(text, return_special_tokens_mask=True)
            assert encoded["input_ids"] == ours.encode(text, add_bos=True)
            assert encoded["special_tokens_mask"] == [1] + [0] * (len(encoded["input_ids"]) - 1)
        batch = theirs(["春天", "hello world"], padding=True)
        assert [ids[0] for ids in batch["input_ids"]] == [ours.bos_id] * 2
    without = transformers.AutoTokenizer.from_pretrained(merged, special_tokens_pattern="none")
    assert without("春天 hello")["input_ids"] == ours.encode("春天 hello")

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["春天来了 hello"] * 9), model_writer=model, model_type="bpe", vocab_size=300,
        byte_fallback=True, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    bare = Tokenizer(model.getvalue())
    assert bare.bos_id is None
    bare.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("春天 hello")["input_ids"] == bare.encode("春天 hello")


def test_auto_tokenizer_on_the_papers_vocabulary(reference: Path, tmp_path: Path) -> None:
    import zhuzi

    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    folder = zhuzi.merge_vocab(base, donor, tmp_path / "t", add_tokens=["[PAD]"]).folder
    ours, theirs = Tokenizer.from_dir(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for name, texts in reference_corpora(reference):
        for text in texts[:20]:
            assert theirs(text)["input_ids"] == ours.encode(text, add_bos=True), name


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_classes_that_give_other_ids_fail_clearly(name: str, merged: Path) -> None:
    with pytest.raises(Exception, match=r"No tokenizer\.json can hold this vocabulary exactly"):
        getattr(transformers, name).from_pretrained(merged)
