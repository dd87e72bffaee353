"""`zhuzi.hf.ZhuziTokenizer`: transformers' interface, sentencepiece's ids."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zhuzi
from texts import HARD_TEXTS
from zhuzi import Tokenizer

transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("zhuzi.hf")


@pytest.fixture
def ours(merged: Path) -> Tokenizer:
    return Tokenizer.from_dir(merged)


@pytest.fixture
def saved(merged: Path, tmp_path: Path) -> Path:
    hf.ZhuziTokenizer.from_pretrained(merged).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_ids_are_ours_after_saving_and_loading(
    ours: Tokenizer, saved: Path, chinese_texts: list[str]
) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(saved)
    assert type(theirs) is hf.ZhuziTokenizer
    assert (len(theirs), theirs.pad_token_id, theirs.pad_token) == (ours.vocab_size, ours.pad_id, "[PAD]")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    texts = chinese_texts + HARD_TEXTS
    wanted = [ours.encode(text, add_bos=True) for text in texts]
    for tokenizer in (theirs, pickle.loads(pickle.dumps(theirs)), copy.deepcopy(theirs)):
        assert tokenizer(texts)["input_ids"] == wanted
    assert [theirs(text)["input_ids"] for text in texts] == wanted
    assert theirs(texts, add_special_tokens=False)["input_ids"] == [ids[1:] for ids in wanted]
    assert [theirs.encode(text) for text in texts[:5]] == wanted[:5]
    assert theirs.convert_tokens_to_ids(theirs.tokenize(texts[0])) == wanted[0][1:]
    assert Tokenizer.from_dir(saved).fingerprint == ours.fingerprint
    for text, ids in zip(texts, wanted, strict=True):
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
        assert theirs.decode(ids) == "<s>" + ours.decode(ids), text
        assert theirs.convert_tokens_to_string(theirs.convert_ids_to_tokens(ids[1:])) == ours.decode(ids)


def test_its_folder_fails_clearly_without_the_import(saved: Path) -> None:
    assert not (saved / "tokenizer.model").exists()
    for name in ("AutoTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"):
        code = f"import transformers as t; t.{name}.from_pretrained({str(saved)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode != 0 and "import zhuzi.hf" in done.stderr, (name, done.stderr[-500:])


def test_bos_and_eos_as_llama_has_them(ours: Tokenizer, merged: Path, tmp_path: Path) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(merged, add_eos_token=True)
    body = ours.encode("春天")
    assert theirs("春天")["input_ids"] == [1, *body, 2]
    assert theirs("春天", "春天")["input_ids"] == [1, *body, 2, 1, *body, 2]
    assert theirs("春天", return_special_tokens_mask=True)["special_tokens_mask"] == [1, *[0] * len(body), 1]
    theirs.save_pretrained(tmp_path / "eos")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "eos")("春天")["input_ids"][-1] == 2
    theirs.add_bos_token = theirs.add_eos_token = False
    assert theirs("春天")["input_ids"] == body


def test_special_tokens_in_text_are_text_unless_asked_for(ours: Tokenizer, merged: Path) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(merged)
    text = "问</s>答[PAD]x"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    wanted = [*ours.encode("问"), 2, *ours.encode("答"), ours.pad_id, *ours.encode("x")]
    found = theirs(text, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True)
    assert found["input_ids"] == wanted
    assert "".join(text[a:b] for a, b in found["offset_mapping"]) == text
    theirs.chat_template = "{% for m in messages %}{{ bos_token + m['content'] + eos_token }}{% endfor %}"
    chat = [{"role": "user", "content": "你好"}]
    wanted = [1, *ours.encode("你好"), 2]
    assert theirs.apply_chat_template(chat, return_dict=False) == wanted
    attack = [{"role": "user", "content": "你</s>好"}]
    clean = theirs.apply_chat_template(attack, return_dict=False, sanitize_control_tokens=True)
    assert clean[0] == 1 and clean.count(2) == 1 and clean[-1] == 2
    assert theirs.apply_chat_template(attack, return_dict=False).count(2) == 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_truncation_offsets_and_tensors(side: str, ours: Tokenizer, merged: Path) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(merged, padding_side=side, truncation_side=side)
    texts = ["春天来了，河边的柳树发了芽。", "hello"]
    found = theirs(
        texts, padding=True, truncation=True, max_length=6, return_tensors="pt", return_offsets_mapping=True
    )
    ids = found["input_ids"]
    assert ids.shape == found["attention_mask"].shape == found["offset_mapping"].shape[:2] == (2, 6)
    body = ours.encode(texts[0])
    assert ids[0].tolist() == [1, *(body[:5] if side == "right" else body[-5:])]
    row = ids[1].tolist()
    assert (row[0] if side == "left" else row[-1]) == ours.pad_id
    assert int(found["attention_mask"][1].sum()) == 1 + len(ours.encode("hello"))
    for text, spans in zip(texts, theirs(texts, return_offsets_mapping=True)["offset_mapping"], strict=True):
        assert spans == [(0, 0), *ours.encode_with_offsets(text).offsets]


def by_transformers(tokenizer: Any, *call: Any, **options: Any) -> Any:
    """What transformers' own code makes of our ids, one text after the other."""
    given = tokenizer._get_padding_truncation_strategies(**options)
    names = ("padding_strategy", "truncation_strategy", "max_length")
    settings = {**options, **dict(zip(names, given, strict=False)), **given[3]}
    for name in ("padding", "truncation"):
        settings.pop(name, None)
    return super(hf.ZhuziTokenizer, tokenizer)._encode_plus(*call, split_special_tokens=True, **settings)


@pytest.mark.parametrize("side", ["left", "right"])
def test_options_do_what_they_do_in_transformers(side: str, merged: Path, chinese_texts: list[str]) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(
        merged, padding_side=side, truncation_side=side, add_eos_token=True
    )
    texts = [*chinese_texts[:8], *HARD_TEXTS]
    for options in (
        {"padding": True},
        {"padding": True, "truncation": True, "max_length": 9},
        {"padding": "max_length", "truncation": True, "max_length": 20, "return_length": True},
        {"padding": True, "pad_to_multiple_of": 8, "return_special_tokens_mask": True},
        {"padding": True, "padding_side": "left", "return_token_type_ids": True},
        {"truncation": True, "max_length": 2, "padding": True},
        {"add_special_tokens": False, "padding": True, "return_special_tokens_mask": True},
    ):
        for call in (texts, texts[0], ""):
            assert theirs(call, **options).data == by_transformers(theirs, call, **options).data, options
    made = theirs(texts, padding="longest", return_tensors="np")
    assert made["input_ids"].shape == made["attention_mask"].shape
    assert "attention_mask" not in theirs(texts, return_attention_mask=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_are_as_transformers_makes_them(
    side: str, ours: Tokenizer, merged: Path, chinese_texts: list[str]
) -> None:
    """Offsets are those of each text by itself; all else is what transformers' own code makes of the ids."""
    theirs = hf.ZhuziTokenizer.from_pretrained(
        merged, padding_side=side, truncation_side=side, add_eos_token=True
    )
    second = [text for text in HARD_TEXTS if text][:7]  # transformers loses an empty one when it truncates
    first, second = chinese_texts[:8], [*second, "second one"]
    options = {"return_special_tokens_mask": True, "return_token_type_ids": True, "padding": True}
    for call in ((first, second), (list(zip(first, second, strict=True)), None), (first[0], second[-1])):
        whole = theirs(*call, return_offsets_mapping=True)["offset_mapping"]
        for more in ({}, {"truncation": True}, {"truncation": "only_first"}, {"add_special_tokens": False}):
            if "truncation" in more:
                more = {**more, "max_length": 24}
            found = theirs(*call, return_offsets_mapping=True, **options, **more)
            spans = found.pop("offset_mapping")
            assert found.data == by_transformers(theirs, *call, **options, **more).data
            for row, complete, ids in zip(*map(as_rows, (spans, whole, found["input_ids"])), strict=True):
                assert len(row) == len(ids) and set(row) <= {*complete, (0, 0)}
    found = theirs("春天来了", "hello", return_offsets_mapping=True)["offset_mapping"]
    parts = [ours.encode_with_offsets(text).offsets for text in ("春天来了", "hello")]
    assert found == [(0, 0), *parts[0], (0, 0), (0, 0), *parts[1], (0, 0)]


def as_rows(found: list[Any]) -> list[list[Any]]:
    """What was found for a batch; for one text, the same as a batch of one."""
    return found if found and isinstance(found[0], list) else [found]


def test_tokens_of_chats_that_the_model_holds(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    """With `--added-tokens keep` ChatML's tokens are CONTROL pieces: a template finds them all the same."""
    base = tmp_path / "base"
    Tokenizer(base_model_file.read_bytes(), added_tokens=["<|im_start|>", "<|im_end|>"]).save(base)
    folder = zhuzi.merge_vocab(base, donor, tmp_path / "out", added_tokens="keep").folder
    ours, theirs = Tokenizer.from_dir(folder), hf.ZhuziTokenizer.from_pretrained(folder)
    assert ours.added_tokens == ()
    start, end = (ours.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert start == theirs.convert_tokens_to_ids("<|im_start|>") == 32_000
    assert len(theirs) == ours.vocab_size
    theirs.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"
    )
    theirs.save_pretrained(tmp_path / "saved")
    for loaded in (theirs, transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")):
        chat = [{"role": "user", "content": "你好"}]
        assert loaded.apply_chat_template(chat, return_dict=False) == [start, *ours.encode("user你好"), end]
        assert loaded("<|im_end|>", add_special_tokens=False)["input_ids"] == ours.encode("<|im_end|>")
        assert loaded.decode([start, *ours.encode("a"), end]) == "<|im_start|>a<|im_end|>"
        assert loaded.decode([start, *ours.encode("a"), end], skip_special_tokens=True) == "a"


def test_datasets_map(ours: Tokenizer, merged: Path, chinese_texts: list[str]) -> None:
    datasets = pytest.importorskip("datasets")
    theirs = hf.ZhuziTokenizer.from_pretrained(merged)
    rows = datasets.Dataset.from_dict({"text": chinese_texts[:40]})
    for workers in (None, 2):
        made = rows.map(lambda batch: theirs(batch["text"]), batched=True, num_proc=workers)
        assert [list(ids) for ids in made["input_ids"]] == [
            ours.encode(text, add_bos=True) for text in chinese_texts[:40]
        ]


def test_tokens_may_be_added(ours: Tokenizer, merged: Path, tmp_path: Path) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(merged)
    assert theirs.add_special_tokens({"additional_special_tokens": ["<|end|>"]}) == 1
    new = theirs.convert_tokens_to_ids("<|end|>")
    assert new == ours.vocab_size and len(theirs) == ours.vocab_size + 1
    theirs.save_pretrained(tmp_path / "more")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "more")
    assert again("好<|end|>", split_special_tokens=False)["input_ids"][-1] == new
    assert again.decode([new]) == "<|end|>" and again.decode([new], skip_special_tokens=True) == ""
    assert Tokenizer.from_dir(tmp_path / "more").vocab_size == ours.vocab_size + 1


def test_what_is_no_text_is_refused(merged: Path) -> None:
    theirs = hf.ZhuziTokenizer.from_pretrained(merged)
    with pytest.raises(ValueError, match="must be a string"):
        theirs(["a", None])
    with pytest.raises(NotImplementedError, match="offsets"):
        theirs(["a", "b"], is_split_into_words=True, return_offsets_mapping=True)
    with pytest.raises(ValueError, match=r"give a zhuzi\.Tokenizer"):
        hf.ZhuziTokenizer()
