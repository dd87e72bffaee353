"""Talk with a tuned model: the prompt of tuning, an answer that streams."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhuzi.errors import InputError
from zhuzi.model.positions import positions_of
from zhuzi.prompt import format_prompt
from zhuzi.tokenizer import Tokenizer

# torch is imported where it is used: a folder that holds no model is refused before it is loaded.
if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_GREEDY = 1e-5  # a temperature below draws the likeliest id anyway, and its quotients would overflow


@dataclass(frozen=True)
class Chat:
    """A model and its tokenizer, to be asked one thing at a time (the published tuning is single-turn)."""

    model: Any  # a causal language model of transformers
    tokenizer: Tokenizer

    @classmethod
    def from_dir(cls, path: str | Path, *, device: str | None = None) -> Chat:
        """Load a model folder: in fp32 on a CPU, as stored on a GPU (taken if there is one).

        Raises:
            InputError: no model in the folder. MismatchError: its tokenizer has ids without a row.
            ValueError: a device that is unknown, or not in this machine.
        """
        from zhuzi.model.folder import ModelFolder

        folder = ModelFolder.open(path)
        folder.require_rows()
        _require_bos(folder.tokenizer)
        import torch

        place = _device(device)
        dtype = torch.float32 if place.type == "cpu" else folder.dtype
        return cls(folder.load(dtype, place), folder.tokenizer)

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",  # the records' own name for it
        max_new_tokens: int = 256,
        temperature: float = 0.2,
        top_p: float = 0.9,
        top_k: int = 40,
        repetition_penalty: float = 1.1,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The answer, piece by piece; never half a character. Ends at EOS or after `max_new_tokens`.

        It also ends, with a warning, where the model's positions are full.

        The prompt's ids are those of tuning. The defaults are the published inference settings; a temperature
        of 0 always takes the likeliest token, a seed repeats a draw.

        Raises:
            ValueError: a setting that cannot be (a penalty of 0, a temperature that is no number).
            InputError: the prompt leaves no room for an answer in the model's positions.
        """
        prompt = [_require_bos(self.tokenizer), *self.tokenizer.encode(format_prompt(instruction, input))]
        ids = generate(
            self.model,
            prompt,
            eos_id=self.tokenizer.eos_id,
            limit=self.tokenizer.vocab_size,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        return stream_text(self.tokenizer, ids)


def complete(
    model: Any,
    tokenizer: Tokenizer,
    text: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int | None = None,
) -> str:
    """`text` carried on by a model that was not tuned: what it would write next, without `text` itself.

    Raises:
        ValueError: a setting that cannot be. InputError: a text that fills the model's positions.
    """
    prompt = tokenizer.encode(text, add_bos=True)
    ids = generate(
        model,
        prompt,
        eos_id=tokenizer.eos_id,
        limit=tokenizer.vocab_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    # Decoded behind the prompt: alone, the first token would lose the space it begins with.
    return tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]


def generate(
    model: Any,
    prompt: list[int],
    *,
    eos_id: int | None,
    limit: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
) -> Iterator[int]:
    """Sample ids after `prompt` (one forward a token, with a key-value cache), EOS not among them.

    `limit` keeps to the tokenizer's ids where the model has padding rows. Penalty, temperature, top-k and
    top-p act in transformers' order.

    Raises:
        ValueError: a setting that cannot be. InputError: a prompt that fills the model's positions. Both at
            once, not at the first id.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: want 0 or more, not {temperature}")
    for name, value in (("top_p", top_p), ("repetition_penalty", repetition_penalty)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: want more than 0, not {value}")
    room = _room(model, prompt)
    ids = _generate(
        model,
        prompt,
        eos_id,
        limit,
        max_new_tokens if room is None else min(max_new_tokens, room),
        temperature,
        top_p,
        top_k,
        repetition_penalty,
        seed,
    )
    return ids if room is None or room >= max_new_tokens else _warned(ids, room, len(prompt))


def _generate(
    model: Any,
    prompt: list[int],
    eos_id: int | None,
    limit: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    seed: int | None,
) -> Iterator[int]:
    import torch

    draw = torch.Generator()
    draw.manual_seed(seed) if seed is not None else draw.seed()
    device = next(model.parameters()).device
    seen, step, cache = list(prompt), torch.tensor([prompt], device=device), None
    keyword = cache_keyword(model)
    for _ in range(max_new_tokens):
        with _evaluating(model):
            output = model(input_ids=step, use_cache=True, **{keyword: cache})
        logits, cache = output.logits[0, -1, :limit].float().cpu(), getattr(output, keyword)
        chosen = _choose(logits, seen, temperature, top_p, top_k, repetition_penalty, draw)
        if chosen == eos_id:
            return
        yield chosen
        seen.append(chosen)
        step = torch.tensor([[chosen]], device=device)


def cache_keyword(model: Any) -> str:
    """The name by which the model's forward takes the keys and values of the tokens before, and gives them.

    transformers renames it. It must be a parameter by name: `**kwargs` swallows a wrong one, and every token
    would be chosen from the last alone.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    base = getattr(base, "_orig_mod", base)  # torch.compile's wrapper
    taken = inspect.signature(base.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in taken:
            return name
    raise InputError(
        f"{type(base).__name__}.forward takes neither cache nor past_key_values, so it cannot answer token "
        "by token; load a causal language model of transformers"
    )


def _room(model: Any, prompt: list[int]) -> int | None:
    """Tokens that the model's positions leave for an answer; none if it does not say how many it has."""
    most = positions_of(model)
    if most is None:
        return None
    if len(prompt) >= most:
        raise InputError(
            f"the prompt has {len(prompt):,} tokens, and the model {most:,} positions for prompt and answer "
            "together; shorten it"
        )
    return most - len(prompt)


def _warned(ids: Iterator[int], room: int, prompt: int) -> Iterator[int]:
    """The ids, and a warning after the last if they end because the positions are full."""
    made = 0
    for i in ids:
        made += 1
        yield i
    if made == room:
        _log.warning(
            "the answer is cut after %d tokens: with the prompt's %d the model's %d positions are full",
            made,
            prompt,
            prompt + made,
        )


def _require_bos(tokenizer: Tokenizer) -> int:
    if tokenizer.bos_id is None:
        raise InputError("the tokenizer has no BOS id, with which every prompt of tuning begins")
    return tokenizer.bos_id


def stream_text(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come.

    A character without a piece of its own comes as up to four byte tokens, and decodes to U+FFFD until the
    last is there: such a tail is held back.
    """
    held: list[int] = []
    sent = 0
    for i in ids:
        held.append(i)
        text = tokenizer.decode(held).rstrip("\ufffd")
        if len(text) > sent:
            yield text[sent:]
            sent = len(text)
    rest = tokenizer.decode(held)[sent:] if held else ""
    if rest:
        yield rest


def _choose(
    logits: torch.Tensor,
    seen: list[int],
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    draw: torch.Generator,
) -> int:
    """One id from its logits. Penalty: Keskar et al. 1909.05858, top-p: Holtzman et al. 1904.09751."""
    import torch

    if repetition_penalty != 1.0:
        used = torch.tensor(sorted(set(seen)))
        scores = logits[used]
        logits[used] = torch.where(scores > 0, scores / repetition_penalty, scores * repetition_penalty)
    if temperature < _GREEDY:
        return int(logits.argmax())
    logits, order = (logits / temperature).sort(descending=True, stable=True)
    if top_k > 0:
        logits, order = logits[:top_k], order[:top_k]
    probabilities = logits.softmax(-1)
    # Keep the likeliest ids up to the one that fills top_p, that one included.
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=draw)])


def _device(name: str | None) -> torch.device:
    """The device of that name, or this machine's GPU, or its CPU."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is unknown; want cpu, cuda or cuda:1") from None
    if device.type == "meta":
        raise ValueError("device: meta holds no weights; want cpu, cuda or cuda:1")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise ValueError(
            f"device: {name!r} is not in this machine, which has {torch.cuda.device_count()} CUDA devices; "
            "leave it out to take what there is"
        ) from None
    return device


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No gradient and no dropout for one forward; between two, the caller finds the model as it was."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
