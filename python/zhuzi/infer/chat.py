"""Chat with a tuned model: the prompt of tuning, an answer that streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from zhuzi.infer.generate import generate, require_room, stream_text
from zhuzi.infer.gguf import GgufFile, is_gguf
from zhuzi.infer.prompt import question
from zhuzi.infer.sampling import GREEDY, Sampling, SamplingSettings
from zhuzi.infer.template import ALPACA, Message, Template
from zhuzi.infer.templates import usable_template, why_unusable
from zhuzi.model.positions import positions, positions_of
from zhuzi.tokenizer import Tokenizer

# torch is imported where it is used: a folder that holds no model is refused before it is loaded.
if TYPE_CHECKING:
    import torch

    from zhuzi.model.folder import ModelFolder


Bits = Literal[4, 8]


@dataclass(frozen=True)
class Chat:
    """A model, its tokenizer, and the template it was tuned with."""

    model: Any
    """A causal language model of transformers."""
    tokenizer: Tokenizer
    template: Template = ALPACA

    @classmethod
    def from_dir(cls, path: str | Path, *, device: str | None = None, bits: Bits | None = None) -> Chat:
        """Load a model folder: in fp32 on a CPU, as stored on a GPU (the default if there is one).

        Or a GGUF file, with llama.cpp (the extra `gguf`). `bits` as in `load`.

        Raises:
            InputError: there is no model in the folder.
            MismatchError: its tokenizer has ids without a row.
            ValueError: a device that is unknown, or not in this machine.
        """
        return cls.load(open_model(path), device=device, bits=bits)

    @classmethod
    def load(
        cls, folder: ModelFolder | GgufFile, *, device: str | None = None, bits: Bits | None = None
    ) -> Chat:
        """As `from_dir`, from what `open_model` opened.

        `bits`: 8 or 4 quantises the linear layers with bitsandbytes as they are loaded (int8, NF4), but never
        embedding and head.
        """
        if isinstance(folder, GgufFile):
            if bits is not None:
                raise ValueError("bits: a GGUF file has its own; leave them out")
            return cls(folder.load(), folder.tokenizer, folder.template)
        import torch

        place = device_of(device)
        dtype = torch.float32 if place.type == "cpu" else folder.dtype
        quantised = None
        if bits is not None:
            from zhuzi.model.quantised import quantisation  # with bitsandbytes, whose import takes seconds

            quantised = quantisation(bits, dtype)
        template = usable_template(folder.path, folder.tokenizer)
        return cls(folder.load(dtype, place, quantization_config=quantised), folder.tokenizer, template)

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",  # as in Alpaca's records
        sampling: Sampling | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Answer:
        """The answer, piece by piece, never half a character. It ends at EOS or after `max_new_tokens`.

        It also ends, with a warning, when the model's positions are full. The prompt is that of tuning.

        Args:
            instruction: what is asked, as in a record of Alpaca.
            input: what it is asked about, if anything.
            sampling: how the answer is drawn; the published settings by default.
            settings: fields of `sampling` to change, as in `temperature=0`.

        Raises:
            ValueError: an invalid setting.
            InputError: the prompt leaves no room for an answer in the model's positions.
        """
        return self.answer([Message("user", question(instruction, input))], sampling=sampling, **settings)

    def answer(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling | None = None,
        **settings: Unpack[SamplingSettings],
    ) -> Answer:
        """The answer to the last of `messages`, a question, after those before it; as `reply` gives it.

        Raises:
            ValueError: an invalid setting.
            InputError: the conversation leaves no room for an answer in the model's positions, or the
                template has no place for a message.
        """
        prompt = self.prompt(messages)
        ids = generate(
            self.model,
            prompt,
            eos_id=self.template.end_id(self.tokenizer),
            limit=self.tokenizer.vocab_size,
            sampling=replace(sampling or Sampling(), **settings),
        )
        return Answer(self.tokenizer, ids, len(prompt))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the model answers the last of `messages`."""
        return self.template.prompt(self.tokenizer, messages)

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer together, at most; None if the model does not say."""
        return positions_of(self.model)


class Answer:
    """An iterator of an answer's pieces, which counts its tokens."""

    def __init__(self, tokenizer: Tokenizer, ids: Iterator[int], prompt: int) -> None:
        self.prompt = prompt
        """Tokens of the prompt."""
        self.tokens = 0
        """Tokens of the answer so far."""
        self._pieces = stream_text(tokenizer, self._counted(ids))

    def _counted(self, ids: Iterator[int]) -> Iterator[int]:
        for id in ids:
            self.tokens += 1
            yield id

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)


def open_model(
    path: str | Path, asked: str | None = None, *, template: Template | None = None, system: str = ""
) -> ModelFolder | GgufFile:
    """Open a model folder or a GGUF file, and check before torch is loaded that it can answer (`asked`).

    `asked` is the question. `template` is that of the folder by default; `system` is the system prompt.

    Raises:
        InputError: no model in the folder, no BOS id, or no room for an answer in the model's positions.
        MismatchError: its tokenizer has ids without a row.
    """
    from zhuzi.model.folder import ModelFolder

    folder: ModelFolder | GgufFile
    if is_gguf(path):
        folder = GgufFile.open(path)
        template = template or folder.template
    else:
        folder = ModelFolder.open(path)
        folder.require_rows()
        template = template or usable_template(folder.path, folder.tokenizer)
    template.require(folder.tokenizer)
    before = [Message("system", system)] if system else []
    prompt = template.prompt(folder.tokenizer, [*before, Message("user", asked or "")])
    if asked is not None:
        require_room(positions(folder.config), len(prompt))
    return folder


def unusable_template(folder: ModelFolder | GgufFile) -> str | None:
    """Why the template of what `open_model` opened cannot be used; None if it can, or there is none."""
    if isinstance(folder, GgufFile):
        return folder.unusable
    return why_unusable(folder.path, folder.tokenizer)


def prompt_ids(tokenizer: Tokenizer, instruction: str, input: str = "") -> list[int]:
    """The published prompt as ids, BOS in front; `InputError` if the tokenizer has no BOS."""
    return ALPACA.prompt(tokenizer, [Message("user", question(instruction, input))])


def complete(
    model: Any,
    tokenizer: Tokenizer,
    text: str,
    *,
    sampling: Sampling = GREEDY,
    **settings: Unpack[SamplingSettings],
) -> str:
    """What a model that was not tuned writes after `text`; `text` itself is not repeated.

    `sampling` and `settings` as in `generate`: 64 tokens, each the most likely one, by default.

    Raises:
        ValueError: an invalid setting.
        InputError: a text that fills the model's positions.
    """
    prompt = tokenizer.encode(text, add_bos=True)
    ids = generate(
        model,
        prompt,
        eos_id=tokenizer.eos_id,
        limit=tokenizer.vocab_size,
        sampling=sampling,
        **settings,
    )
    # Decoded after the prompt: alone, the first token would lose the space it begins with.
    return tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]


def device_of(name: str | None) -> torch.device:
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
