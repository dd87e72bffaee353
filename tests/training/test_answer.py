"""One function draws every answer: whole characters, stop strings over tokens, log probabilities, seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import ENGLISH

from zhuzi import Chat, Sampling, Tokenizer
from zhuzi.errors import InputError
from zhuzi.infer.answer import Delta, TextStream, answer, tokens
from zhuzi.infer.chat import prompt_ids
from zhuzi.infer.engine import TransformersEngine
from zhuzi.infer.sampling import GREEDY


class Fixed:
    """An engine that answers with given ids, and knows whether its sequences were closed."""

    def __init__(self, ids: Sequence[int], positions: int | None = None, rows: int = 410) -> None:
        self.ids, self.positions, self.rows = list(ids), positions, rows
        self.open = 0

    def start(self) -> FixedSequence:
        self.open += 1
        return FixedSequence(self)


class FixedSequence:
    def __init__(self, engine: Fixed) -> None:
        self.engine, self.ids = engine, iter(engine.ids)

    def advance(self, ids: list[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(self.ids)), self.engine.rows) * 9.0

    def close(self) -> None:
        self.engine.open -= 1


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_dir(model)


def deltas(
    tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str] = (), **options: object
) -> list[Delta]:
    sampling = Sampling(max_new_tokens=len(ids), temperature=0, repetition_penalty=1)
    return list(answer(Fixed(ids), tokenizer, [1], [2], sampling, stop=stop, **options))  # type: ignore[arg-type]


def joined(found: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in found)


def test_characters_are_whole_whatever_the_tokens(tokenizer: Tokenizer) -> None:
    text = "two 龘😀 words，你好"
    found = deltas(tokenizer, [*tokenizer.encode(text), 2])
    assert joined(found) == text and not any("\ufffd" in delta.text for delta in found)
    assert found[-1].finish == "stop" and found[-1].made == 0
    assert [delta.finish for delta in found[:-1]] == [None] * (len(found) - 1)
    assert sum(delta.made for delta in found) == len(tokenizer.encode(text))
    cut = deltas(tokenizer, tokenizer.encode("a龘")[:-1])  # the last byte never comes
    assert joined(cut) == "a\ufffd\ufffd" and cut[-1].finish == "length"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_stop_strings_may_cross_tokens(size: int, tokenizer: Tokenizer) -> None:
    """Every substring of a text ends it where it occurs first, and nothing of it is shown."""
    text = ENGLISH[:60] + "天地龘你好天地"
    ids = [*tokenizer.encode(text), 2]
    for at in range(0, len(text) - size, 3):
        stop = text[at : at + size]
        found = deltas(tokenizer, ids, ["never", stop])
        assert joined(found) == text[: text.find(stop)], stop
        assert found[-1].finish == "stop"
    assert joined(deltas(tokenizer, ids, [text[-3:] + "!", "\n\n"])) == text


def test_tokens_come_with_the_text_that_they_begin(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The river rises in 龘 hills")
    found = deltas(tokenizer, [*ids, 2], ["ills"], logprobs=2)
    given = [token.id for delta in found for token in delta.tokens]
    assert joined(found) == "The river rises in 龘 h"
    assert given == ids[: len(given)] and tokenizer.decode(given).startswith("The river rises in 龘 h")
    everything = deltas(tokenizer, [*ids, 2], logprobs=2)
    assert [token.id for delta in everything for token in delta.tokens] == ids
    token = next(delta.tokens[0] for delta in everything if delta.tokens)
    assert token.logprob == pytest.approx(
        float((torch.nn.functional.one_hot(torch.tensor(0), 410) * 9.0).log_softmax(-1)[0]),
        abs=1e-4,
    )
    assert token.top[0] == (token.id, token.logprob) and len(token.top) == 2


def test_log_probabilities_are_the_models_own(model: Path, tokenizer: Tokenizer) -> None:
    """Whatever temperature and penalty do to the draw."""
    chat = Chat.from_dir(model)
    prompt = tokenizer.encode("The river", add_bos=True)
    engine = TransformersEngine(chat.model, tokenizer.vocab_size)
    made = list(tokens(engine, prompt, [2], Sampling(max_new_tokens=6, temperature=3.0, seed=1), logprobs=3))
    ids = [token.id for token in made]
    with torch.no_grad():
        logits = chat.model(torch.tensor([[*prompt, *ids]], device=chat.model.device)).logits[
            0, :, : tokenizer.vocab_size
        ]
    wanted = logits.float().cpu().log_softmax(-1)
    for at, token in enumerate(made):
        row = wanted[len(prompt) + at - 1]
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-3)
        assert [id for id, _ in token.top] == row.topk(3).indices.tolist()


def test_a_seed_repeats_an_answer_in_chat_and_here(model: Path, tokenizer: Tokenizer) -> None:
    chat = Chat.from_dir(model)
    engine = TransformersEngine(chat.model, tokenizer.vocab_size)
    sampling = Sampling(max_new_tokens=12, temperature=2.0, top_p=1.0, top_k=0, seed=3)
    said = "".join(chat.reply("你好", sampling=sampling))
    for _ in range(2):
        assert joined(list(answer(engine, tokenizer, prompt_ids(tokenizer, "你好"), [2], sampling))) == said


def test_a_prompt_costs_one_row_of_logits(model: Path, tokenizer: Tokenizer) -> None:
    held = Chat.from_dir(model, device="cpu").model
    ids = tokenizer.encode(ENGLISH[:200], add_bos=True)
    with torch.no_grad():
        wanted = held(torch.tensor([ids])).logits[0, -1, : tokenizer.vocab_size]
    rows = []
    held.lm_head.register_forward_hook(lambda _, __, made: rows.append(made.shape[1]))
    found = TransformersEngine(held, tokenizer.vocab_size).start().advance(ids)
    assert rows == [1] and torch.allclose(found, wanted, atol=1e-5)


def test_the_positions_bound_an_answer(tokenizer: Tokenizer) -> None:
    engine = Fixed([263] * 9, positions=6)
    found = list(answer(engine, tokenizer, [1, 263], [2], GREEDY))
    assert sum(delta.made for delta in found) == 4 and found[-1].finish == "length"
    with pytest.raises(InputError, match="shorten it"):
        answer(engine, tokenizer, [1] * 6, [2], GREEDY)
    assert engine.open == 0


def test_a_sequence_is_closed_when_the_answer_is_left(tokenizer: Tokenizer) -> None:
    engine = Fixed([263] * 9)
    left = answer(engine, tokenizer, [1], [2], GREEDY)
    next(left)
    assert engine.open == 1
    left.close()  # type: ignore[attr-defined]
    assert engine.open == 0


def test_a_completion_goes_on_from_its_prompt(tokenizer: Tokenizer) -> None:
    text = "The river rises in 龘 hills"
    ids = tokenizer.encode(text)
    for cut in range(1, len(ids)):
        stream = TextStream(tokenizer, ids[:cut])
        shown = "".join(stream.push(id) for id in ids[cut:]) + stream.finish()
        before = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        assert before + shown == text
