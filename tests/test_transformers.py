"""A tokenizer folder in plain transformers: sentencepiece's ids, or a clear failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from texts import HARD_TEXTS, reference_corpora
from zhuzi import Tokenizer

transformers = pytest.importorskip("transformers")


def test_auto_tokenizer_gives_the_same_ids(merged: Path, chinese_texts: list[str]) -> None:
    ours, theirs = Tokenizer.from_dir(merged), transformers.AutoTokenizer.from_pretrained(merged)
    assert (len(theirs), theirs.pad_token_id) == (ours.vocab_size, ours.pad_id)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    for text in chinese_texts + HARD_TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text), text


def test_auto_tokenizer_on_the_papers_vocabulary(reference: Path, tmp_path: Path) -> None:
    import zhuzi

    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    folder = zhuzi.merge_vocab(base, donor, tmp_path / "t", add_tokens=["[PAD]"]).folder
    ours, theirs = Tokenizer.from_dir(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for name, texts in reference_corpora(reference):
        for text in texts[:20]:
            assert theirs(text)["input_ids"] == ours.encode(text), name


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_classes_that_give_other_ids_fail_clearly(name: str, merged: Path) -> None:
    with pytest.raises(Exception, match=r"No tokenizer\.json can hold this vocabulary exactly"):
        getattr(transformers, name).from_pretrained(merged)
