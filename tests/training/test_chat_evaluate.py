"""Bits a byte against a plain sum, and answers that stream whole characters."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import ENGLISH

from zhuzi import Chat, Sampling, Tokenizer, bits_per_byte
from zhuzi.errors import InputError, MismatchError
from zhuzi.infer.chat import complete
from zhuzi.infer.generate import cache_keyword, generate, stream_text
from zhuzi.infer.prompt import format_prompt
from zhuzi.model.positions import positions


@pytest.fixture(scope="module")
def chat(model: Path) -> Chat:
    return Chat.from_dir(model)


class Fixed(torch.nn.Module):
    """A model that answers with given ids, whatever it reads, and remembers what it read."""

    def __init__(self, ids: list[int], rows: int = 410) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.ids, self.rows, self.read = iter(ids), rows, []

    def forward(self, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        self.read.append(input_ids[0].tolist())
        logits = torch.nn.functional.one_hot(torch.tensor(next(self.ids)), self.rows) * 100.0
        return SimpleNamespace(logits=logits[None, None], past_key_values=None)


def test_reply_streams_whole_characters(model: Path) -> None:
    tokenizer = Tokenizer.from_dir(model)
    rare = tokenizer.encode_piece("龘")
    assert len(rare) == 3  # byte tokens
    fixed = Fixed([*tokenizer.encode("你好"), *rare, rare[0], *tokenizer.encode_piece("天"), rare[0], 2, 5])
    pieces = list(Chat(fixed, tokenizer).reply("你好", input="世界"))
    assert "".join(pieces) == "你好龘\ufffd天\ufffd"
    assert "龘" in pieces and all(piece for piece in pieces)
    assert fixed.read[0] == [1, *tokenizer.encode(format_prompt("你好", "世界"))]


def test_stream_equals_decode(model: Path) -> None:
    tokenizer = Tokenizer.from_dir(model)
    text = " two  spaces\n人工智能 and 龘😀, done "
    ids = tokenizer.encode(text)
    assert "".join(stream_text(tokenizer, ids)) == tokenizer.decode(ids) == text
    assert list(stream_text(tokenizer, [])) == []


def test_greedy_equals_generate_of_transformers(chat: Chat) -> None:
    prompt = [1, *chat.tokenizer.encode("The river")]
    theirs = chat.model.generate(
        torch.tensor([prompt], device=chat.model.device),
        max_new_tokens=12,
        do_sample=False,
        repetition_penalty=1.3,
        eos_token_id=None,
    )[0, len(prompt) :].tolist()
    ours = list(
        generate(chat.model, prompt, eos_id=None, limit=410, max_new_tokens=12, repetition_penalty=1.3)
    )
    assert ours == theirs


def test_seed_and_limits(chat: Chat) -> None:
    def draw(seed: int) -> str:
        return "".join(chat.reply("天", max_new_tokens=8, temperature=5.0, top_p=1.0, top_k=0, seed=seed))

    assert draw(1) == draw(1) != draw(2)
    # Of ids 0 to 2 the likeliest fills top_p alone, so nothing else is ever drawn.
    for settings in ({"top_p": 0.5}, {"top_k": 1}, {"temperature": 0.0}):
        ids = generate(
            Fixed([7] * 20), [1], eos_id=2, limit=410, max_new_tokens=20, **{"temperature": 1.0, **settings}
        )
        assert list(ids) == [7] * 20
    # Padding rows beyond the tokenizer are never drawn.
    assert set(generate(Fixed([440] * 9, rows=448), [1], eos_id=2, limit=410, max_new_tokens=9)) <= set(
        range(410)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": float("nan")},
        {"top_k": -1},
        {"max_new_tokens": -1},
    ],
)
def test_settings_that_cannot_be(model: Path, settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}: want"):
        Chat(Fixed([]), Tokenizer.from_dir(model)).reply("天", **settings)


def test_one_sampling_or_its_fields(chat: Chat) -> None:
    drawn = Sampling(max_new_tokens=8, temperature=5.0, top_p=1.0, top_k=0, seed=1)
    fields = {"max_new_tokens": 8, "temperature": 5.0, "top_p": 1.0, "top_k": 0, "seed": 1}
    expected = list(chat.reply("天", sampling=drawn))
    assert expected and expected == list(chat.reply("天", **fields))
    assert expected == list(chat.reply("天", sampling=Sampling(max_new_tokens=8, seed=1), **fields))
    with pytest.raises(TypeError, match="top_q"):
        chat.reply("天", top_q=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-6, 1e-5])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    ids = generate(Fixed([7] * 5), [1], eos_id=2, limit=410, max_new_tokens=5, temperature=temperature)
    assert list(ids) == [7] * 5


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "'gpu' is unknown"), ("", "'' is unknown"), ("cuda:99", "'cuda:99' is not in this machine"),
     ("meta", "meta holds no weights")],
)  # fmt: skip
def test_devices_that_are_not_there(model: Path, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"device: {message}"):
        Chat.from_dir(model, device=device)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="an adapter; merge it first, with `zhuzi model merge`"):
        Chat.from_dir(tmp_path)


def test_each_forward_sees_the_tokens_before(chat: Chat) -> None:
    """Step by step, each with one new token, the logits are those of one forward over all of them."""
    ids = [1, *chat.tokenizer.encode("The river rises in the hills")]
    device = chat.model.device
    keyword, cache = cache_keyword(chat.model), None
    with torch.no_grad():
        whole = chat.model(torch.tensor([ids], device=device), use_cache=False).logits[0]
        for at, i in enumerate(ids):
            step = torch.tensor([[i]], device=device)
            output = chat.model(input_ids=step, use_cache=True, **{keyword: cache})
            cache = getattr(output, keyword)
            torch.testing.assert_close(output.logits[0, -1], whole[at], rtol=1e-3, atol=1e-4)
    alone = chat.model(torch.tensor([[ids[-1]]], device=device)).logits[0, -1]
    assert not torch.allclose(alone, whole[-1], atol=1e-3)  # without the cache it would be another


def test_the_cache_is_named_by_the_signature(chat: Chat) -> None:
    class Renamed(Fixed):
        def forward(self, input_ids: torch.Tensor, cache: Any, use_cache: bool, **kwargs: Any) -> Any:
            made = super().forward(input_ids, cache, use_cache)
            return SimpleNamespace(logits=made.logits, cache=made.past_key_values)

    class Swallowing(Fixed):
        def forward(self, input_ids: torch.Tensor, use_cache: bool, **kwargs: Any) -> Any:
            return super().forward(input_ids, None, use_cache)

    assert cache_keyword(Fixed([])) == "past_key_values" and cache_keyword(Renamed([])) == "cache"
    assert list(generate(Renamed([7, 2]), [1], eos_id=2, limit=410, max_new_tokens=3)) == [7]
    with pytest.raises(InputError, match="takes neither cache nor past_key_values"):
        list(generate(Swallowing([7, 2]), [1], eos_id=2, limit=410, max_new_tokens=3))


def test_the_positions_of_the_model(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"prompt has [0-9,]+ tokens, and the model 256 positions"):
        chat.reply("天" * 300)
    with pytest.raises(InputError, match="shorten it"):
        complete(chat.model, chat.tokenizer, "天" * 300)
    assert len(list(generate(chat.model, [5] * 250, eos_id=None, limit=410, max_new_tokens=6))) == 6
    assert "is cut" not in caplog.text
    assert len(list(generate(chat.model, [5] * 250, eos_id=None, limit=410, max_new_tokens=7))) == 6
    assert "the answer is cut after 6 tokens" in caplog.text
    with pytest.raises(ValueError, match="context: 257 is beyond the model's 256 positions"):
        bits_per_byte(chat.model, chat.tokenizer, ["a"], context=257)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({}, None),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default"}}, 2048),
        ({"max_position_embeddings": 8192, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 8192),
        (
            {
                "max_position_embeddings": 2048,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 2048,
                },
            },
            8192,
        ),
    ],
)
def test_positions_by_config(config: dict[str, Any], most: int | None) -> None:
    assert positions(config) == most


def test_a_folder_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    code = "import sys; from zhuzi.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    ended = subprocess.run(
        [sys.executable, "-c", code, "chat", "--model", str(tmp_path)],
        input="天", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and "holds no config.json" in ended.stderr
    assert "AssertionError" not in ended.stderr


def test_a_question_that_is_too_long_is_refused_before_torch_is_loaded(model: Path) -> None:
    code = "import sys; from zhuzi.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    ended = subprocess.run(
        [sys.executable, "-c", code, "chat", "--model", str(model)],
        input="天" * 300, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1 and "the model 256 positions" in ended.stderr
    assert "AssertionError" not in ended.stderr


def test_bytes_that_are_no_utf8(model: Path) -> None:
    for question, mend in (("你好吗".encode("gbk"), "iconv -f gb18030 -t utf-8"), (b"a\xff", "convert it")):
        ended = subprocess.run(
            [sys.executable, "-m", "zhuzi", "chat", "--model", str(model)],
            input=question, capture_output=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 1 and ended.stdout == b""
        (line,) = ended.stderr.decode().splitlines()
        assert line.startswith("zhuzi: standard input: not UTF-8 at byte") and mend in line


def test_complete_and_mode(chat: Chat) -> None:
    chat.model.train()
    text = complete(chat.model, chat.tokenizer, "The river", max_new_tokens=5)
    assert chat.model.training and isinstance(text, str)
    chat.model.eval()


def test_chat_needs_a_row_for_every_id(base_model: Path, model: Path, tmp_path: Path) -> None:
    shrunk = Path(shutil.copytree(base_model, tmp_path / "shrunk"))
    for file in model.glob("*token*"):
        shutil.copy(file, shrunk)
    with pytest.raises(MismatchError, match=r"[0-9]+ ids, its embedding 400"):
        Chat.from_dir(shrunk)


def test_bits_per_byte_by_hand(chat: Chat) -> None:
    texts = [ENGLISH[:200], "你好世界", ""]
    measured = bits_per_byte(chat.model, chat.tokenizer, texts, context=16)
    bits, tokens = 0.0, 0
    for text in texts:
        ids = chat.tokenizer.encode(text)
        for begin in range(0, len(ids), 15):
            window = [1, *ids[begin : begin + 15]]
            with torch.no_grad():
                here = torch.tensor([window], device=chat.model.device)
                logits = chat.model(here).logits[0].double().log_softmax(-1)
            bits -= sum(float(logits[i, window[i + 1]]) for i in range(len(window) - 1)) / math.log(2)
            tokens += len(window) - 1
    assert measured.bits == pytest.approx(bits, rel=1e-5)
    assert (measured.tokens, measured.characters, measured.bytes) == (tokens, 204, 212)
    assert measured.per_byte == measured.bits / 212 and measured.per_character == measured.bits / 204
    assert measured == bits_per_byte(chat.model, chat.tokenizer, texts, context=16)
    with pytest.raises(InputError, match="no text"):
        bits_per_byte(chat.model, chat.tokenizer, [""])
