"""`zhuzi.Tokenizer` against sentencepiece itself, and what else a user relies on."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from texts import HARD_TEXTS, reference_corpora, require_same_offsets
from zhuzi import Tokenizer
from zhuzi.errors import ModelFileError

MISTRAL_MODELS = [
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240323.model.v3",  # 750 control and 20 user-defined pieces
]
REFERENCE_MODELS = [
    "llama-32000",
    "chinese-llama-2-55296",
    "mistral-v1",
    "mistral-v3",
    "glm-cog-pretrain-chinese",
]


def require_same(tokenizer: Tokenizer, peer: sentencepiece.SentencePieceProcessor, texts: list[str]) -> None:
    """Ids of every text, and what they decode to, are sentencepiece's."""
    wanted = peer.encode(texts, num_threads=2)
    got = tokenizer.encode_batch(texts).tolist()
    differ = [text for text, a, b in zip(texts, wanted, got, strict=True) if a != b]
    assert not differ, f"{len(differ)} of {len(texts)} documents differ, the first: {differ[0][:200]!r}"
    # One text of many: long enough to be cut for several threads.
    long = " \n".join(texts * (300_000 // sum(map(len, texts)) + 1))[:300_000]
    assert tokenizer.encode_batch([long], num_threads=3)[0].tolist() == peer.encode(long)
    for text in (*HARD_TEXTS, *texts[::50]):
        require_same_offsets(tokenizer, peer, text)
    decoded = peer.decode(wanted, num_threads=2)
    assert [tokenizer.decode(ids) for ids in wanted] == decoded


@pytest.mark.parametrize("name", MISTRAL_MODELS)
def test_ids_are_sentencepieces(name: str, mistral: Path, chinese_texts: list[str]) -> None:
    peer = sentencepiece.SentencePieceProcessor(model_file=str(mistral / name))
    require_same(Tokenizer.from_sentencepiece(mistral / name), peer, chinese_texts + HARD_TEXTS)


def test_ids_are_sentencepieces_on_a_merged_vocabulary(merged: Path, chinese_texts: list[str]) -> None:
    peer = sentencepiece.SentencePieceProcessor(model_file=str(merged / "tokenizer.model"))
    require_same(Tokenizer.from_dir(merged), peer, chinese_texts + HARD_TEXTS)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_ids_are_sentencepieces_with_every_normaliser(
    rule: str, byte_fallback: bool, chinese_texts: list[str], tmp_path: Path
) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in chinese_texts[:60] for line in text.split("\n")),
        model_prefix=str(tmp_path / "m"),
        vocab_size=3000,
        model_type="bpe",
        byte_fallback=byte_fallback,
        normalization_rule_name=rule,
        user_defined_symbols=["<sep>", "人工", "工智能", "▁x"],
        character_coverage=0.98,
        minloglevel=2,
    )
    model = tmp_path / "m.model"
    peer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    require_same(Tokenizer.from_sentencepiece(model), peer, chinese_texts + HARD_TEXTS + ["人工智能<sep> x"])


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_ids_are_sentencepieces_on_the_reference_corpora(name: str, reference: Path) -> None:
    path = reference / "tokenizers" / f"{name}.model"
    peer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer.from_sentencepiece(path)
    for _, texts in reference_corpora(reference):
        require_same(tokenizer, peer, texts)


def test_random_bytes_are_read_as_sentencepiece_reads_them(base_model_file: Path) -> None:
    peer = sentencepiece.SentencePieceProcessor(model_file=str(base_model_file))
    tokenizer = Tokenizer.from_sentencepiece(base_model_file)
    draw = random.Random(7)
    pool = "中国 a▁\n😀é".encode() + bytes(range(0x78, 0x100))
    for _ in range(300):
        text = bytes(draw.choice(pool) for _ in range(draw.randrange(40)))
        assert tokenizer.encode(text) == peer.encode(text), text


def test_batches(merged: Path, chinese_texts: list[str]) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    texts = [*chinese_texts, "", *HARD_TEXTS] * 12
    one = tokenizer.encode_batch(texts, num_threads=1)
    for threads in (2, 5):
        more = tokenizer.encode_batch(texts, num_threads=threads)
        assert np.array_equal(one.ids, more.ids)
        assert np.array_equal(one.offsets, more.offsets)
    assert len(one) == len(texts)
    assert one.ids.dtype == np.uint32
    assert one[3].tolist() == tokenizer.encode(texts[3])
    assert one[-1].tolist() == tokenizer.encode(texts[-1])
    assert [a.tolist() for a in one[2:4]] == one.tolist()[2:4]
    assert [a.tolist() for a in one] == one.tolist()
    assert pickle.loads(pickle.dumps(one)).tolist() == one.tolist()
    with pytest.raises(IndexError):
        one[len(texts)]
    assert tokenizer.encode_batch([]).tolist() == []
    assert tokenizer.encode_batch([b"a", "b"]).tolist() == [tokenizer.encode("a"), tokenizer.encode("b")]
    with pytest.raises(TypeError, match="list of texts"):
        tokenizer.encode_batch("text")
    with pytest.raises(TypeError, match="str or bytes, not int"):
        tokenizer.encode_batch([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="num_threads"):
        tokenizer.encode_batch(["a"], num_threads=0)


def test_the_cache_changes_no_id(merged: Path, chinese_texts: list[str]) -> None:
    ids = Tokenizer.from_dir(merged).encode_batch(chinese_texts).tolist()
    for cache_bytes in (0, 1000, 64 << 20):
        tokenizer = Tokenizer.from_dir(merged, cache_bytes=cache_bytes)
        assert tokenizer.encode_batch(chinese_texts).tolist() == ids
        assert pickle.loads(pickle.dumps(tokenizer)).encode_batch(chinese_texts).tolist() == ids
    for cache_bytes in (-1, 2 << 30):
        with pytest.raises(ValueError, match="cache_bytes"):
            Tokenizer.from_sentencepiece(merged / "tokenizer.model", cache_bytes=cache_bytes)


def test_offsets_say_where_a_token_stands(merged: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    text = "人工智能 means 龘😀\n"
    encoding = tokenizer.encode_with_offsets(text)
    assert encoding.ids == tokenizer.encode(text)
    assert "".join(text[begin:end] for begin, end in encoding.offsets) == text
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode_with_offsets("a\ud800")


def test_ids_and_tokens(merged: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    pad = tokenizer.vocab_size - 1
    assert tokenizer.token_to_id("[PAD]") == tokenizer.pad_id == pad
    assert tokenizer.id_to_token(pad) == "[PAD]"
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert pad not in tokenizer.encode("[PAD] [PAD]"), "an added token is never made from text"
    assert tokenizer.decode([1, *tokenizer.encode("你好"), 2, pad]) == "你好"
    assert tokenizer.encode("你好", add_bos=True, add_eos=True) == [1, *tokenizer.encode("你好"), 2]
    assert tokenizer.token_to_id("no such piece") is None
    for wrong in (-1, pad + 1, 2**40):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            tokenizer.id_to_token(wrong)
        with pytest.raises(IndexError, match="outside the vocabulary"):
            tokenizer.decode([wrong])


def test_a_piece_is_encoded_without_dummy_prefix(base_model_file: Path) -> None:
    tokenizer = Tokenizer.from_sentencepiece(base_model_file)
    for piece in ("the", "▁the", "的"):
        assert tokenizer.encode_piece(piece) == [tokenizer.token_to_id(piece)]
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("的")] == ["▁", "的"]


def test_a_pickle_of_0_1_is_read(merged: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    parts = ((merged / "tokenizer.model").read_bytes(), ("[PAD]",), 4096)
    old = b"czhuzi.tokenizer\n_rebuild\n" + pickle.dumps(parts, protocol=0)[:-1] + b"R."
    assert pickle.loads(old).fingerprint == tokenizer.fingerprint


def test_a_saved_tokenizer_is_the_same(merged: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    tokenizer.save(tmp_path / "copy")
    for again in (Tokenizer.from_dir(tmp_path / "copy"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint
        assert again.vocab_size == tokenizer.vocab_size
        assert again.encode("人工智能") == tokenizer.encode("人工智能")
    plain = Tokenizer.from_sentencepiece((merged / "tokenizer.model").read_bytes())
    assert plain.vocab_size == tokenizer.vocab_size - 1
    assert plain.fingerprint != tokenizer.fingerprint
    plain.save(tmp_path / "copy")
    assert Tokenizer.from_dir(tmp_path / "copy").vocab_size == plain.vocab_size


def test_bad_models_are_refused(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    whole = base_model_file.read_bytes()
    bad = tmp_path / "bad.model"
    contents = {
        "empty": b"",
        "cut in a piece": whole[: len(whole) // 2 + 1],
        "random": random.Random(1).randbytes(5000),
        "text": "这不是模型\n".encode() * 50,
    }
    for name, content in contents.items():
        bad.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad\.model: "):
            Tokenizer.from_sentencepiece(bad)
            pytest.fail(name)
    with pytest.raises(FileNotFoundError, match=r"missing\.model"):
        Tokenizer.from_sentencepiece(tmp_path / "missing.model")
    with pytest.raises(ModelFileError, match=r"unigram.*donor"):
        Tokenizer.from_sentencepiece(donor)


def test_every_cut_of_a_model_is_refused_or_whole(merged: Path) -> None:
    """A model cut off anywhere never loads as a smaller one."""
    whole = (merged / "tokenizer.model").read_bytes()
    draw = random.Random(3)
    for _ in range(60):
        with pytest.raises(ModelFileError):
            Tokenizer.from_sentencepiece(whole[: draw.randrange(len(whole) - 1)])


def test_bad_folders_are_refused(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Tokenizer.from_dir(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"holds no tokenizer\.model"):
        Tokenizer.from_dir(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError, match="not a SentencePiece model"):
        Tokenizer.from_dir(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((merged / "tokenizer.model").read_bytes())
    size = Tokenizer.from_dir(tmp_path).vocab_size
    for added in ({"[PAD]": size + 5}, {"[PAD]": "x"}, ["[PAD]"], {"▁the": size}):
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        with pytest.raises((ModelFileError, ValueError), match=r"added|tokenizer\.model"):
            Tokenizer.from_dir(tmp_path)


def test_added_tokens_are_found_wherever_a_folder_names_them(merged: Path, tmp_path: Path) -> None:
    """transformers 4 and 5 write them to three places; a row may have been trained for each."""
    shutil.copy(merged / "tokenizer.model", tmp_path)
    model = Tokenizer.from_dir(tmp_path)
    size, pieces = model.vocab_size, model.pieces()
    wanted = Tokenizer((merged / "tokenizer.model").read_bytes(), added_tokens=["<a>", "<b>"])

    def entry(token: str, id: int) -> dict[str, object]:
        return {"id": id, "content": token, "special": True}

    both = [entry("<s>", 1), entry("<a>", size), entry("<b>", size + 1)]
    vocab = {p.text: i for i, p in enumerate(pieces)}
    fast = {"version": "1.0", "added_tokens": both, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    decoder = {"added_tokens_decoder": {str(e["id"]): e for e in both}}
    table = {str(e["content"]): e["id"] for e in both}
    scores = {**fast, "model": {"type": "Unigram", "vocab": [[p.text, p.score] for p in pieces]}}
    files: dict[str, dict[str, Any]] = {
        "added_tokens.json": table,
        "tokenizer_config.json": decoder,
        "tokenizer.json": fast,
    }

    def read(**changed: object) -> Tokenizer:
        for name in files:
            (tmp_path / name).unlink(missing_ok=True)
        for name, value in changed.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
        return Tokenizer.from_dir(tmp_path)

    held = {name.removesuffix(".json"): value for name, value in files.items()}
    for found in (*(read(**{name: value}) for name, value in held.items()), read(**held)):
        assert (found.added_tokens, found.fingerprint) == (("<a>", "<b>"), wanted.fingerprint)
    assert read(tokenizer=scores).vocab_size == size + 2
    assert read(added_tokens={"<a>": size}, tokenizer_config=decoder).added_tokens == ("<a>", "<b>")

    other = {"<b>": size, "<a>": size + 1}
    for name in ("tokenizer_config", "tokenizer"):
        with pytest.raises(ModelFileError, match=rf"{name}\.json: gives '<a>' .* in added_tokens\.json"):
            read(added_tokens=other, **{name: held[name]})
    with pytest.raises(ModelFileError, match=r"added_tokens_decoder"):
        read(tokenizer_config={"added_tokens_decoder": ["<a>"]})
    with pytest.raises(ModelFileError, match="without `content`"):
        read(tokenizer={**fast, "added_tokens": [{"id": size}]})
    longer = {**fast, "added_tokens": [], "model": {"vocab": {**vocab, "<a>": size, "<b>": size + 1}}}
    with pytest.raises(ModelFileError, match=rf"holds {size + 2} pieces, tokenizer\.model beside it {size}"):
        read(tokenizer=longer)
    swapped = {**fast, "model": {"vocab": {**vocab, "▁the": vocab["▁a"]}}}
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: gives '▁the' the id \d+, which is another"):
        read(tokenizer=swapped)

    (tmp_path / "tokenizer.json").write_text(json.dumps(fast))
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(ModelFileError, match=r"copy tokenizer\.model of the original model there"):
        Tokenizer.from_dir(tmp_path)


def test_pieces_are_sentencepieces(mistral: Path) -> None:
    path = mistral / "mistral_instruct_tokenizer_240323.model.v3"
    peer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = Tokenizer.from_sentencepiece(path).pieces()
    assert len(pieces) == peer.get_piece_size()
    for i, piece in enumerate(pieces):
        assert (piece.text, piece.score) == (peer.id_to_piece(i), peer.get_score(i))
        assert (piece.kind == "CONTROL") == peer.is_control(i)
        assert (piece.kind == "BYTE") == peer.is_byte(i)
    assert {p.kind for p in pieces} == {"NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "BYTE"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_encodes(merged: Path, chinese_texts: list[str]) -> None:
    """Threads in the parent, then fork: nothing the child needs is locked by a thread it does not have."""
    code = """
import json, os, sys, threading, zhuzi
tokenizer = zhuzi.Tokenizer.from_dir(sys.argv[1])
texts = json.load(sys.stdin) * 20
tokenizer.encode_batch(texts)  # loads numpy: a fork in the middle of an import hangs any Python
stop = threading.Event()
def work():
    while not stop.is_set():
        tokenizer.encode_batch(texts, num_threads=3)
threads = [threading.Thread(target=work) for _ in range(2)]
[t.start() for t in threads]
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        ok = tokenizer.encode_batch(texts, num_threads=2)[0].tolist() == tokenizer.encode(texts[0])
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
[t.join() for t in threads]
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(merged)],
        input=json.dumps(chinese_texts),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "done", done.stderr
