"""An answer as it comes: tokens, their text in whole characters, and where it stops.

Chat, the server and its page, and evaluation all draw their tokens in `tokens`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from zhuzi.errors import InputError
from zhuzi.infer.engine import Engine
from zhuzi.infer.sampling import Sampling, choose
from zhuzi.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

#: Why an answer ended: by the model or a stop string, or because its tokens or the positions were used up.
Finish = Literal["stop", "length"]

# Ids before a text that decide how its first token is written: a byte token may end a character of four.
_CONTEXT = 8


class Token(NamedTuple):
    """One token that was drawn."""

    id: int
    logprob: float | None
    """Its log probability (nats) by the model, before sampling changes it; None if not asked for."""
    top: tuple[tuple[int, float], ...]
    """The most likely ids there, and their log probabilities."""
    ends: bool
    """Whether it ends the answer, and has no text."""


class Delta(NamedTuple):
    """What one token added to an answer."""

    text: str
    """Whole characters; empty while a character or a stop string may be incomplete."""
    tokens: tuple[Token, ...]
    """The tokens that begin in `text`, and those without text."""
    made: int
    """Tokens drawn for it: 1, or 0 for the last one if the model ended the answer or the room was full."""
    finish: Finish | None
    """Set in the last one."""


def tokens(
    engine: Engine,
    prompt: list[int],
    ends: Collection[int | None],
    sampling: Sampling,
    *,
    logprobs: int | None = None,
) -> Iterator[Token]:
    """Draw tokens after `prompt` (ids, BOS among them), until one of `ends` or as many as `sampling` says.

    Args:
        engine: what computes the logits. The answer ends where its positions do.
        ends: ids that end the answer.
        logprobs: None for none, else how many of the likeliest ids to give with each token.
    """
    import torch

    draw = torch.Generator()
    draw.manual_seed(sampling.seed) if sampling.seed is not None else draw.seed()
    room = engine.positions
    most = sampling.max_new_tokens if room is None else min(sampling.max_new_tokens, room - len(prompt))
    seen, step = list(prompt), prompt
    sequence = engine.start()
    try:
        for _ in range(most):
            logits = sequence.advance(step)
            scores = None if logprobs is None else logits.log_softmax(-1)
            chosen = choose(logits, seen, sampling, draw)
            ended = chosen in ends
            yield _token(chosen, scores, logprobs or 0, ended)
            if ended:
                return
            seen.append(chosen)
            step = [chosen]
    finally:
        sequence.close()


def _token(id: int, scores: torch.Tensor | None, top: int, ends: bool) -> Token:
    if scores is None:
        return Token(id, None, (), ends)
    best = scores.topk(min(top, scores.shape[0]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Token(id, float(scores[id]), tuple(pairs), ends)


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: list[int],
    ends: Collection[int | None],
    sampling: Sampling,
    *,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    continues: bool = False,
) -> Iterator[Delta]:
    """The answer to `prompt`, one `Delta` for each token; those of an unfinished character have no text.

    Args:
        stop: strings that end the answer where they begin; they may be spread over tokens.
        continues: whether the text goes on from the prompt's (completion) or stands alone (an answer).

    Raises:
        InputError: the prompt leaves no room for an answer. Raised here, not at the first token.
    """
    require_room(engine.positions, len(prompt))
    drawn = tokens(engine, prompt, ends, sampling, logprobs=logprobs)
    stream = TextStream(tokenizer, prompt[-_CONTEXT:] if continues else ())
    return _deltas(drawn, stream, _Stops(stop))


def _deltas(drawn: Iterator[Token], stream: TextStream, stops: _Stops) -> Iterator[Delta]:
    held: list[tuple[int, Token]] = []  # where in the answer a token that was not given yet begins
    given = received = 0

    def release(upto: int | None) -> tuple[Token, ...]:
        ready = [token for at, token in held if upto is None or at < upto]
        held[:] = [] if upto is None else [(at, token) for at, token in held if at >= upto]
        return tuple(ready)

    for token in drawn:
        if token.ends:
            rest = stops.push(stream.finish())
            text = rest + ("" if stops.found else stops.finish())
            yield Delta(text, release(given + len(text) if stops.found else None), 0, "stop")
            return
        held.append((received, token))
        fresh = stream.push(token.id)
        received += len(fresh)
        text = stops.push(fresh)
        given += len(text)
        if stops.found:
            yield Delta(text, release(given), 1, "stop")
            return
        yield Delta(text, release(given) if text else (), 1, None)
    text = stops.push(stream.finish())
    found = stops.found
    text += "" if found else stops.finish()
    yield Delta(text, release(given + len(text) if found else None), 0, "stop" if found else "length")


class TextStream:
    """The text of ids as they come, in whole characters.

    A character without a piece of its own arrives as up to four byte tokens and decodes to U+FFFD until the
    last of them: such a tail is held back. `before` are ids whose text the new one continues.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._sent = len(tokenizer.decode(self._ids).rstrip("\ufffd")) if before else 0

    def push(self, id: int) -> str:
        """What can be written after a further id."""
        self._ids.append(id)
        return self._upto(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def finish(self) -> str:
        """What was held back."""
        return self._upto(self._tokenizer.decode(self._ids)) if self._ids else ""

    def _upto(self, text: str) -> str:
        fresh = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return fresh


class _Stops:
    """Lets text through up to the first stop string; what may be the beginning of one is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be written of the text so far."""
        if not self._stop:
            return text
        held = self._held + text
        at = min((at for stop in self._stop if (at := held.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.found, self._held = True, ""
            return held[:at]
        keep = max(
            (n for stop in self._stop for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def require_room(positions: int | None, prompt: int) -> int | None:
    """Tokens that `positions` leave for an answer to a prompt of this length; None if they are not known.

    Raises:
        InputError: they leave no room.
    """
    if positions is None:
        return None
    if prompt >= positions:
        raise InputError(
            f"the prompt has {prompt:,} tokens, and the model {positions:,} positions for prompt and answer "
            "together; shorten it"
        )
    return positions - prompt
