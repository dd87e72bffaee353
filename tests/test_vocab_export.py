"""What `vocab export` writes gives the same ids in the engines it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import zhuzi
from texts import HARD_TEXTS, reference_corpora
from zhuzi import Tokenizer
from zhuzi.cli import cli
from zhuzi.errors import InputError, ModelFileError
from zhuzi.infer.chat import prompt_ids
from zhuzi.infer.template import ALPACA, Message
from zhuzi.vocab import dead_pieces, engines, extend_vocab
from zhuzi.vocab.export import export_vocab

transformers = pytest.importorskip("transformers")

LITERAL = ["a</s>b<s>", "<unk> [PAD] <pad>", "用户</s>助手", "</s>", "<s> x"]


@pytest.fixture(scope="module")
def ordered(base_model_file: Path, donor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ordered") / "tokenizer"
    return zhuzi.merge_vocab(
        base_model_file, donor, out, policy="ordered", repair=True, add_tokens=["[PAD]"]
    ).folder


def with_specials(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which special tokens are recognised: the parts between them stand alone."""
    special = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<unk>": 0, "[PAD]": tokenizer.pad_id}
    for token, id in special.items():
        before, found, after = text.partition(token)
        if found:
            assert id is not None
            return [*with_specials(tokenizer, before), id, *with_specials(tokenizer, after)]
    return tokenizer.encode(text)


@pytest.mark.parametrize("policy", ["ordered", "paper"])
def test_a_folder_for_transformers_has_the_same_ids(
    policy: str, ordered: Path, merged: Path, chinese_texts: list[str], chinese_file: Path, tmp_path: Path
) -> None:
    source = ordered if policy == "ordered" else merged
    made = export_vocab(source, tmp_path / "out", check=[chinese_file])
    ours = Tokenizer.from_dir(source)
    assert made.checked > ours.vocab_size - 400 and made.exact == (policy == "ordered")
    assert (made.reason is None) == made.exact
    assert made.dead == len(dead_pieces(source)) and (made.dead > 0) == (policy == "paper")
    assert Tokenizer.from_dir(made.path).fingerprint == ours.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(made.path)
    assert theirs.is_fast == made.exact
    assert (len(theirs), theirs.pad_token_id, theirs.bos_token_id) == (ours.vocab_size, ours.pad_id, 1)
    for text in chinese_texts + HARD_TEXTS + LITERAL:
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text, add_bos=True), text
        assert theirs(text, add_special_tokens=False)["input_ids"] == with_specials(ours, text), text
    question = "把“春天”译成英文。\n谢谢！"
    chat = [{"role": "user", "content": question}]
    assert theirs.apply_chat_template(chat, return_dict=False) == prompt_ids(ours, question)
    chat.append({"role": "assistant", "content": "Spring"})
    assert theirs.apply_chat_template(chat, return_dict=False)[-1] == ours.eos_id
    asked = [{"role": "system", "content": "你是诗人。"}, chat[0]]
    ids = ALPACA.prompt(ours, [Message("system", "你是诗人。"), Message("user", question)])
    assert theirs.apply_chat_template(asked, return_dict=False) == ids
    with pytest.raises(Exception, match="no place for a message of the role tool"):
        theirs.apply_chat_template([{"role": "tool", "content": "x"}])


def test_dead_pieces_are_counted(base_model_file: Path, donor: Path, tmp_path: Path) -> None:
    """With strictly ordered scores every engine gives the same ids; what is dead is counted all the same."""
    folder = zhuzi.merge_vocab(base_model_file, donor, tmp_path / "t", policy="ordered").folder
    command = ["vocab", "export", "--tokenizer", str(folder), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    dead = len(dead_pieces(folder))
    assert dead and f"{dead:,} pieces can never be produced, in no engine" in done.output
    assert "transformers gives the same ids for" in done.output


def test_a_tokenizer_json_is_decoded_as_we_decode(ordered: Path, tmp_path: Path) -> None:
    ours = Tokenizer.from_dir(ordered)
    theirs = transformers.AutoTokenizer.from_pretrained(export_vocab(ordered, tmp_path / "out").path)
    for text in HARD_TEXTS:
        ids = ours.encode(text)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids), text


def test_beside_a_model_of_llama(ordered: Path, tmp_path: Path) -> None:
    """With a config.json of LLaMA in the folder AutoTokenizer still loads the tokenizer.json as it is."""
    folder = export_vocab(ordered, tmp_path / "out").path
    transformers.LlamaConfig(vocab_size=64).save_pretrained(folder)
    ours, theirs = Tokenizer.from_dir(ordered), transformers.AutoTokenizer.from_pretrained(folder)
    for text in HARD_TEXTS + LITERAL:
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text, add_bos=True), text
        assert theirs(text, add_special_tokens=False)["input_ids"] == with_specials(ours, text), text


def test_split_special_tokens_and_no_template(ordered: Path, tmp_path: Path) -> None:
    made = export_vocab(ordered, tmp_path / "out", split_special_tokens=True, chat_template=None)
    theirs = transformers.AutoTokenizer.from_pretrained(made.path)
    assert theirs("a</s>")["input_ids"] == Tokenizer.from_dir(ordered).encode("a</s>", add_bos=True)
    assert theirs.chat_template is None


def test_gguf(ordered: Path, merged: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for source in (ordered, merged):
        made = export_vocab(source, tmp_path / f"{source.parent.name}.gguf", format="gguf")
        assert made.path.read_bytes()[:4] == b"GGUF" and made.exact
        if engines.installed("llama-cpp-python"):
            assert made.checked > 30_000


def test_what_gguf_cannot_hold_is_refused(mistral: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ModelFileError, match="user-defined pieces"):
        export_vocab(mistral / "mistral_instruct_tokenizer_240323.model.v3", tmp_path / "x", format="gguf")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["paper", "ordered", "ordered repair", "han", "all"])
def test_every_engine_on_the_reference_corpora(name: str, reference: Path, tmp_path: Path) -> None:
    """Every document of every corpus; a twentieth of them again, with special tokens that are recognised."""
    base, donor = (reference / "tokenizers" / f"{n}.model" for n in ("llama-32000", "chinese_sp-20000"))
    texts = [text for _, texts in reference_corpora(reference) for text in texts]
    if name in ("han", "all"):
        corpora = sorted((reference / "corpora").glob("*.zst"))
        folder = extend_vocab(corpora, base, tmp_path / "t", new_pieces=17_953, scripts=name).folder
    else:
        policy, _, repair = name.partition(" ")
        folder = zhuzi.merge_vocab(base, donor, tmp_path / "t", policy=policy, repair=bool(repair)).folder
    names = [*engines.ENGINES[1:], engines.ZHUZI_TOKENIZER]
    if name == "paper":
        names.remove("tokenizers")
    parity = engines.compare(folder, texts, engines=names)
    assert parity.documents > 30_000 and parity.exact, parity
    marked = [f"<s>{text[:99]}</s>{text[99:]}</s>" for text in texts[::20]]
    parity = engines.compare(folder, marked, engines=names, parse_special=True)
    assert parity.documents > 1_500 and parity.exact, parity


@pytest.mark.parametrize(
    ("data", "message"), [(b"\xd6\xd0", "not UTF-8 at byte 0"), (b"{% for %}", "line 1")]
)
def test_a_file_that_is_no_template_is_refused(
    ordered: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_bytes(data)
    with pytest.raises(InputError, match=message):
        export_vocab(ordered, tmp_path / "out", chat_template=template)
    assert not (tmp_path / "out").exists()
