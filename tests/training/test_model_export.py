"""What `model export` writes is the same model in llama.cpp and in transformers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny import CHINESE, ENGLISH, PROSE
from transformers import AutoModelForCausalLM, AutoTokenizer

import zhuzi
from zhuzi import Tokenizer
from zhuzi.cli import cli
from zhuzi.errors import InputError, ModelFileError, OutputExistsError
from zhuzi.infer.chat import prompt_ids
from zhuzi.infer.template import ALPACA
from zhuzi.model.export import check as checking
from zhuzi.model.export import export as exporting
from zhuzi.model.export.export import export_model
from zhuzi.model.export.gguf_model import permuted, unpermuted
from zhuzi.model.folder import ModelFolder

gguf = pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")

PROMPTS = [
    *(line for line in ENGLISH.splitlines()),
    *(PROSE[at : at + 7] for at in range(0, 28, 2)),
]  # fmt: skip
LITERAL = ["a</s>b<s>", "<unk> [PAD] <pad>", "天</s>地", "</s>", "<s> x", "<0x0A>", "▁▁ a"]


def documents(n: int) -> list[str]:
    """Texts of words, Chinese pieces, spaces, rare characters, and names of special tokens."""
    draw = random.Random(1)
    parts = [
        *ENGLISH.split(),
        *CHINESE,
        *PROSE,
        "  ",
        "\n",
        "龘",
        "😀",
        "é",
        "</s>",
        "<s>",
        "[PAD]",
        "\t",
        "<0x41>",
    ]
    return ["".join(draw.choices(parts, k=draw.randint(1, 60))) for _ in range(n)]


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extended model after some steps on the texts, so that what it predicts hangs on what it read."""
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("trained") / "model"))
    tokenizer = Tokenizer.from_dir(folder)
    held = ModelFolder.open(folder).load(torch.float32).train()
    ids = torch.tensor(tokenizer.encode((ENGLISH + PROSE + "\n") * 3)[: 16 * 48]).view(16, 48)
    ids = torch.cat([torch.ones(16, 1, dtype=torch.int64), ids], 1)
    adam = torch.optim.AdamW(held.parameters(), lr=1e-2)
    for _ in range(60):
        adam.zero_grad()
        held(input_ids=ids, labels=ids).loss.backward()
        adam.step()
    held.half().save_pretrained(folder)
    return folder


class Llama:
    """A GGUF file in llama.cpp, its keys and values in fp32."""

    def __init__(self, path: Path) -> None:
        kind = llama_cpp.GGML_TYPE_F32
        self._held = llama_cpp.Llama(
            str(path), n_ctx=256, n_batch=256, logits_all=True, verbose=False, type_k=kind, type_v=kind
        )
        self.metadata = self._held.metadata

    def logits(self, ids: list[int]) -> np.ndarray[Any, Any]:
        self._held.reset()
        self._held.eval(ids)
        return self._held.scores[: len(ids)].copy()

    def greedy(self, ids: list[int], n: int) -> list[int]:
        made = [int(self.logits(ids)[-1].argmax())]
        while len(made) < n:  # token by token, with the keys and values of the others
            self._held.eval(made[-1:])
            made.append(int(self._held.scores[len(ids) + len(made) - 1].argmax()))
        return made

    def tokens(self, text: str, special: bool) -> list[int]:
        return self._held.tokenize(text.encode(), add_bos=False, special=special)

    def close(self) -> None:
        self._held.close()


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Llama]]:
    held: list[Llama] = []

    def load(path: Path) -> Llama:
        held.append(Llama(path))
        return held[-1]

    yield load
    for one in held:
        one.close()


def nats(logits: torch.Tensor, ids: list[int]) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:-1].float(), torch.tensor(ids[1:])))


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_continues_as_transformers(
    kind: str, trained: Path, tmp_path: Path, opened: Callable[[Path], Llama]
) -> None:
    made = export_model(trained, tmp_path / "m.gguf", type=kind)
    assert made.texts > 2000 and made.same_choice == 1 and made.difference < {"f32": 1e-5, "f16": 2e-3}[kind]
    ours, theirs = Tokenizer.from_dir(trained), opened(made.path)
    model = ModelFolder.open(trained).load(torch.float32)
    answers = set()
    for prompt in PROMPTS[:20]:
        ids = ours.encode(prompt, add_bos=True)
        with torch.no_grad():
            wanted = model.generate(
                torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
            )[0, len(ids) :].tolist()
        assert theirs.greedy(ids, 16) == wanted, prompt
        answers.add(tuple(wanted))
    assert len(PROMPTS[:20]) == 20 and len(answers) > 15


def test_eight_bits_lose_less_than_a_percent(
    trained: Path, tmp_path: Path, opened: Callable[[Path], Llama]
) -> None:
    made = export_model(trained, tmp_path / "m.gguf", type="q8_0")
    assert made.wide == 0 and made.bytes < ModelFolder.open(trained).bytes_in("float32") * 0.6
    theirs, ours = opened(made.path), Tokenizer.from_dir(trained)
    model = ModelFolder.open(trained).load(torch.float32)
    whole = rounded = 0.0
    for text in [ENGLISH[at : at + 200] for at in range(0, 400, 50)] + [PROSE]:
        ids = ours.encode(text, add_bos=True)
        with torch.no_grad():
            whole += nats(model(torch.tensor([ids])).logits[0], ids)
        rounded += nats(torch.from_numpy(theirs.logits(ids)), ids)
    assert whole / 9 < 3  # it learned something
    assert abs(np.exp(rounded / 9) / np.exp(whole / 9) - 1) < 0.01


def with_specials(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which special tokens are recognised: the parts between them stand alone."""
    special = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<unk>": 0, "[PAD]": tokenizer.pad_id}
    found = [(text.find(token), token) for token in special if token in text]
    if not found:
        return tokenizer.encode(text)
    at, token = min(found)
    id = special[token]
    assert id is not None
    before = tokenizer.encode(text[:at]) if at else []
    return [*before, id, *with_specials(tokenizer, text[at + len(token) :])]


def test_llama_cpp_has_the_ids_of_a_thousand_documents(
    trained: Path, tmp_path: Path, opened: Callable[[Path], Llama]
) -> None:
    texts = [*documents(1000), *LITERAL]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    made = export_model(trained, tmp_path / "m.gguf", check=[path])
    ours, theirs = Tokenizer.from_dir(trained), opened(made.path)
    assert made.texts == 2000 + len(texts) + sum(p.kind in ("NORMAL", "CONTROL") for p in ours.pieces())
    for text in texts:
        assert theirs.tokens(text, special=False) == ours.encode(text), text
        assert theirs.tokens(text, special=True) == with_specials(ours, text), text
    assert theirs.metadata["tokenizer.ggml.bos_token_id"] == "1"
    assert theirs.metadata["tokenizer.chat_template"] == ALPACA.jinja


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("bfloat16", {"num_key_value_heads": 2}),
        ("float32", {"tie_word_embeddings": True}),
        ("float16", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        ("float16", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
        (
            "float16",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                                 "original_max_position_embeddings": 64}},
        ),
        (
            "float16",
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                 "rope_theta": 1e4,
                                 "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
        ),
    ],
)  # fmt: skip
def test_other_shapes(
    dtype: str, settings: dict[str, Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Grouped keys, a tied head, biases, larger heads, padding rows, scaled positions."""
    source = make_model(tmp_path / "model", rows=448, dtype=dtype, **settings)
    made = export_model(source, tmp_path / "m.gguf")
    assert made.type == {"bfloat16": "bf16", "float32": "f32", "float16": "f16"}[dtype]
    names = {tensor.name for tensor in gguf.GGUFReader(made.path).tensors}
    assert ("output.weight" in names) == ("tie_word_embeddings" not in settings)
    folder = export_model(source, tmp_path / "hf", format="hf")
    assert folder.difference == 0


def test_a_wrong_order_of_rows_is_noticed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(16.0)[:, None]
    assert permuted(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(unpermuted(permuted(rows, 2), 2), rows)
    monkeypatch.setattr("zhuzi.model.export.gguf_model.permuted", lambda tensor, heads: tensor)
    for kind in ("f16", "q8_0"):
        with pytest.raises(InputError, match="computes other logits from what was written"):
            export_model(trained, tmp_path / "m.gguf", type=kind)
    assert list(tmp_path.iterdir()) == []


def test_without_llama_cpp_the_file_is_read_back(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checking, exporting):
        monkeypatch.setattr(module, "installed", lambda name: None)
    monkeypatch.setattr("zhuzi.vocab.export.installed", lambda name: None)
    made = export_model(trained, tmp_path / "m.gguf", type="f16")
    assert made.texts == 0 and "llama.cpp did not load the file" in made.unchecked[0]
    assert made.difference == 0 and made.engine.startswith("transformers, with the file's tensors")


def test_rows_that_eight_bits_cannot_cut(make_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", intermediate_size=48)
    made = export_model(source, tmp_path / "m.gguf", type="q8_0")
    assert made.wide == 2  # down_proj of both layers
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(made.path).tensors}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"


def test_a_folder_for_transformers(trained: Path, tmp_path: Path) -> None:
    bits = {
        "measured": [
            {"model": "m", "fingerprint": ModelFolder.open(trained).fingerprint, "source": "/x/zh.jsonl",
             "documents": 3, "bits_per_byte": 1.25},
            {"model": "n", "fingerprint": "0", "source": "/x/en.jsonl", "documents": 3, "bits_per_byte": 9.0},
        ]
    }  # fmt: skip
    (tmp_path / "bits.json").write_text(json.dumps(bits))
    made = export_model(
        trained, tmp_path / "out", format="hf", license="llama2", base_model="a/b", name="小模型",
        figures=[tmp_path / "bits.json"],
    )  # fmt: skip
    ours = Tokenizer.from_dir(trained)
    theirs = AutoTokenizer.from_pretrained(made.path)
    question = "你好 {it}\n世界"
    chat = [{"role": "user", "content": question}]
    ids = theirs.apply_chat_template(chat, return_dict=False)
    assert ids == prompt_ids(ours, question)
    plain, loaded = (
        AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (trained, made.path)
    )
    assert loaded.dtype == torch.float16 and not loaded.config.tie_word_embeddings
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    generation = json.loads((made.path / "generation_config.json").read_bytes())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)
    assert generation["pad_token_id"] == ours.pad_id and generation["temperature"] == 0.2
    card = (made.path / "README.md").read_text("utf-8")
    assert 'license: "llama2"\nbase_model: "a/b"' in card and "# 小模型" in card
    assert "| bits per byte | zh.jsonl (3 documents) | 1.2500 |" in card and "en.jsonl" not in card
    assert "| extended model |" in card and str(tmp_path.parent) not in card
    assert zhuzi.Chat.from_dir(made.path).tokenizer.fingerprint == ours.fingerprint
    bits["measured"] = bits["measured"][1:]
    (tmp_path / "bits.json").write_text(json.dumps(bits))
    with pytest.raises(InputError, match="holds no figures of this model"):
        export_model(trained, tmp_path / "new", format="hf", figures=[tmp_path / "bits.json"])


def test_types_of_a_folder(base_model: Path, tmp_path: Path) -> None:
    made = export_model(base_model, tmp_path / "wide", format="hf", type="f32")
    assert ModelFolder.open(made.path).dtype_name == "float32" and made.difference == 0
    made = export_model(base_model, tmp_path / "bf16", format="hf", type="bf16")
    assert ModelFolder.open(made.path).dtype_name == "bfloat16" and 0 < made.difference < 0.02
    with pytest.raises(ValueError, match='take type="f16", or format="gguf"'):
        export_model(base_model, tmp_path / "x", format="hf", type="q8_0")
    done = CliRunner().invoke(cli, ["model", "export", "--model", str(base_model), "--format", "hf",
                                    "--type", "q8_0", "--out", str(tmp_path / "x")])  # fmt: skip
    assert done.exit_code == 2 and "--format gguf" in done.output


def edit(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'; GGUF is written for llama and mistral"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_hidden_layers": 3}, "lacks 9 tensors of 3 layers"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary embeddings of the type 'longrope'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor of the rotary embeddings is 0"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"tie_word_embeddings": True}, "would drop the head"),
    ],
)
def test_what_cannot_be_exported(
    changes: dict[str, Any], message: str, base_model: Path, tmp_path: Path
) -> None:
    source = edit(Path(shutil.copytree(base_model, tmp_path / "model")), **changes)
    with pytest.raises(InputError, match=message):
        export_model(source, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_values_too_large_for_a_type(make_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", dtype="float32")
    held = ModelFolder.open(source).load(torch.float32)
    held.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e6
    held.save_pretrained(source)
    for layout in ("gguf", "hf"):
        with pytest.raises(InputError, match=r"up_proj\.weight has values that are not finite in .*16"):
            export_model(source, tmp_path / "out", format=layout, type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_outputs_are_ours_until_they_are_changed(trained: Path, tmp_path: Path) -> None:
    """A card or a Modelfile that the user wrote into is not replaced."""
    file, folder = tmp_path / "m.gguf", tmp_path / "hf"
    for _ in range(2):
        export_model(trained, file, overwrite=True)
        export_model(trained, folder, format="hf", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hf", "m.gguf", "m.gguf.Modelfile", "m.gguf.zhuzi.json"
    ]  # fmt: skip
    for changed, out, layout in ((folder / "README.md", folder, "hf"),
                                 (tmp_path / "m.gguf.Modelfile", file, "gguf")):  # fmt: skip
        changed.write_text("mine")
        with pytest.raises(OutputExistsError):
            export_model(trained, out, format=layout, overwrite=True)
        assert changed.read_text() == "mine"


def test_the_modelfile(trained: Path, tmp_path: Path) -> None:
    export_model(trained, tmp_path / "m.gguf")
    text = (tmp_path / "m.gguf.Modelfile").read_text("utf-8")
    assert (
        text.startswith("FROM ./m.gguf\nTEMPLATE ")
        and '### Response: {{ $bos = "<s>" }}{{ else if' in text
        and text.count("{{") == text.count("}}")
    )
    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}")
    export_model(trained, tmp_path / "n.gguf", chat_template=tmp_path / "own.jinja")
    assert 'TEMPLATE "' not in (tmp_path / "n.gguf.Modelfile").read_text("utf-8")


def test_a_vocabulary_that_gguf_cannot_hold(base_model: Path, tmp_path: Path) -> None:
    import io

    import sentencepiece

    source = Path(shutil.copytree(base_model, tmp_path / "model"))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH.splitlines() * 4), model_writer=model, model_type="bpe",
        vocab_size=400, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    (source / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(ModelFileError, match="no GGUF gives the ids of this vocabulary: the model maps"):
        export_model(source, tmp_path / "m.gguf")


def test_the_command(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    done = CliRunner().invoke(
        cli, ["model", "export", "--model", str(trained), "--out", str(out), "--type", "q8_0"]
    )
    assert done.exit_code == 0, done.output
    assert "computes the same logits" in done.output and "the same ids for" in done.output
    assert "not checked: the Modelfile was not tried" in done.output
