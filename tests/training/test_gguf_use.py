"""A GGUF file answers, serves and is measured as the model it was made from; so does one in 8 or 4 bits."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_serve import ASKED, running
from tiny import ENGLISH, PROSE

from zhuzi import Chat, Tokenizer, bits_per_byte
from zhuzi.cli import cli
from zhuzi.errors import InputError
from zhuzi.infer.gguf import GgufFile, is_gguf
from zhuzi.infer.template import ALPACA
from zhuzi.model import export_model

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

TEXTS = [ENGLISH[:200], PROSE, "天"]


@pytest.fixture(scope="module")
def file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(model, tmp_path_factory.mktemp("gguf") / "m.gguf", type="f32").path


def test_its_vocabulary_is_the_models(file: Path, model: Path) -> None:
    held, ours = GgufFile.open(file), Tokenizer.from_dir(model)
    assert held.template is ALPACA and held.config["max_position_embeddings"] == 256
    theirs = held.tokenizer
    assert theirs.vocab_size == ours.vocab_size
    assert [theirs.id_to_token(id) for id in range(410)] == [ours.id_to_token(id) for id in range(410)]
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(theirs, name) == getattr(ours, name), name
    for text in [*TEXTS, "a</s>b", " two  spaces\n龘😀", "[PAD]"]:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def test_rows_of_padding_are_no_ids(make_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", rows=448)
    made = export_model(source, tmp_path / "m.gguf", type="f32")
    assert GgufFile.open(made.path).tokenizer.vocab_size == 400
    chat = Chat.from_dir(made.path)
    assert isinstance("".join(chat.reply("a", max_new_tokens=8, temperature=5.0, top_k=0)), str)


def test_it_answers_and_is_measured_as_the_model(file: Path, model: Path) -> None:
    ours, theirs = Chat.from_dir(model, device="cpu"), Chat.from_dir(file)
    for question in ("你好", "The river"):
        said = ["".join(chat.reply(question, max_new_tokens=24, temperature=0)) for chat in (ours, theirs)]
        assert said[0] == said[1]
        drawn = {"max_new_tokens": 12, "temperature": 1.5, "top_k": 0, "seed": 3}
        assert "".join(ours.reply(question, **drawn)) == "".join(theirs.reply(question, **drawn))
    wanted, found = (bits_per_byte(c.model, c.tokenizer, TEXTS, context=16, batch=3) for c in (ours, theirs))
    assert found.bits == pytest.approx(wanted.bits, rel=1e-3) and found.tokens == wanted.tokens


def test_sequences_do_not_see_each_other(file: Path) -> None:
    chat = Chat.from_dir(file)
    greedy = {"max_new_tokens": 20, "temperature": 0.0}
    alone = ["".join(chat.reply(question, **greedy)) for question in ("你好", "The river", "天")]
    answers = [chat.reply(question, **greedy) for question in ("你好", "The river", "天")]
    said = ["", "", ""]
    for _ in range(25):  # in turn
        for at, answer in enumerate(answers):
            said[at] += next(answer, "")
    assert said == alone
    left = chat.reply("你好", **greedy)
    next(left)
    del left, answer, answers
    gc.collect()  # an answer that was left is part of a circle
    assert len(chat.model._idle) == 3  # contexts are used again, also those of answers that were left
    assert "".join(chat.reply("天", **greedy)) == alone[2]


def test_the_server_and_eval_take_a_file(file: Path, model: Path, tmp_path: Path) -> None:
    with running(file) as server:
        said = server.chat(temperature=0, max_tokens=12).choices[0].message.content
    assert said == "".join(
        Chat.from_dir(model, device="cpu").reply(ASKED[0]["content"], temperature=0, max_new_tokens=12)
    )
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    done = CliRunner().invoke(
        cli, ["eval", "bits", "--model", str(file), "--model", str(model),
              "--corpus", str(tmp_path / "text.txt"), "--context", "32", "--device", "cpu"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = [
        float(line.split(": ")[1].split()[0]) for line in done.output.splitlines() if "bits per byte" in line
    ]
    assert figures[0] == pytest.approx(figures[1], abs=2e-3)


def test_a_template_that_cannot_be_used(file: Path, tmp_path: Path) -> None:
    for name, template, why in (
        ("broken", "{% for m in messages %}", "not a Jinja template"),
        ("endless", "{% for m in messages %}{{ m.content }}\n{% endfor %}", "no special token"),
    ):
        other = tmp_path / f"{name}.gguf"
        command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", template]
        subprocess.run([*command, str(file), str(other)], check=True, capture_output=True)
        held = GgufFile.open(other)
        assert held.template is ALPACA and held.unusable and why in held.unusable
        asked = ["chat", "--model", str(other), "--max-new-tokens", "3"]
        done = CliRunner().invoke(cli, asked, input="你好")
        assert done.exit_code == 0, done.output
        assert "the published prompt is used, as the model's own cannot be: " in done.output


def test_chat_reads_a_question_and_a_file(file: Path) -> None:
    done = CliRunner().invoke(cli, ["chat", "--model", str(file), "--max-new-tokens", "3"], input="你好")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("bits", "width"), [(8, 128), (4, 128), (4, 172)]
)  # which a kernel of 4 bits cannot cut
def test_a_folder_in_fewer_bits(
    bits: int, width: int, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    source = make_model(tmp_path / "model", hidden_size=64, intermediate_size=width)
    whole = Chat.from_dir(source, device="cpu")
    chat = Chat.from_dir(source, device="cpu", bits=bits)  # type: ignore[arg-type]
    kinds = {type(module).__name__ for module in chat.model.modules()}
    assert ("Linear8bitLt" if bits == 8 else "Linear4bit") in kinds
    assert chat.model.lm_head.weight.dtype == torch.float32
    figures = [bits_per_byte(c.model, c.tokenizer, TEXTS, context=32).per_byte for c in (whole, chat)]
    assert figures[0] != figures[1] and figures[1] == pytest.approx(figures[0], rel=0.05)
    assert "".join(chat.reply("天", max_new_tokens=4)) is not None
    out = tmp_path / "bits.json"
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    done = CliRunner().invoke(
        cli, ["eval", "bits", "--model", str(source), "--corpus", str(tmp_path / "text.txt"),
              "--context", "32", "--device", "cpu", "--bits", str(bits), "--json", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_bytes())["quantised"] == bits


def test_what_is_no_gguf(file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "m.gguf"
    with pytest.raises(InputError, match="no such file"):
        Chat.from_dir(damaged)
    for data in (b"GGUF", file.read_bytes()[:500], b"GGUF" + bytes(200), file.read_bytes()[:-2000]):
        damaged.write_bytes(data)
        assert is_gguf(damaged)
        with pytest.raises(InputError, match=r"llama\.cpp cannot load it"):
            Chat.from_dir(damaged)
    with pytest.raises(ValueError, match="a GGUF file has its own"):
        Chat.from_dir(file, bits=8)
