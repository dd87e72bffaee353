"""Templates that write a conversation as one text, with special tokens in it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from zhuzi.errors import InputError
from zhuzi.infer.template import Message, Run, Template
from zhuzi.tokenizer import Tokenizer

# Stands around the number of a special token whose text is in a message: there it is text.
_MARK = "\U000f0000"


class TextTemplate(Template):
    """Writes a conversation as a text.

    What is between two special tokens is encoded as one text, as in transformers and llama.cpp. An answer
    begins where the template, told to, stops for it, and ends with the next special token.
    """

    @abstractmethod
    def written(self, messages: Sequence[Message], variables: Mapping[str, str], *, asks: bool) -> str:
        """The text of a conversation.

        Args:
            variables: the texts of special tokens: `bos_token`, `eos_token`, `pad_token`.
            asks: whether it ends where the model is to answer.

        Raises:
            InputError: the template has no place for a message.
        """

    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[Run]:
        """The parts of a conversation, in order."""
        special = SpecialTokens.of(tokenizer)
        hidden = [message._replace(content=special.hidden(message.content)) for message in messages]
        asks = not hidden or hidden[-1].role != "assistant"
        whole = self.written(hidden, special.variables, asks=asks)
        at = 0
        before = ""  # the text since the last special token
        for i, message in enumerate(hidden):
            if message.role != "assistant":
                continue
            begin = self._length(hidden[:i], special, whole, asks=True)
            end = len(whole) if i + 1 == len(hidden) else self._length(hidden[: i + 1], special, whole)
            prompt = whole[at:begin]
            yield Run(special.encoded(prompt, before), answer=False)
            before = special.tail(before + prompt)
            at = self._end_of_answer(special, whole, begin, end, message.content)
            learned = message.trained and bool(message.content.strip())
            yield Run(special.encoded(whole[begin:at], before), learned)
            before = ""
        if at < len(whole):
            yield Run(special.encoded(whole[at:], before), answer=False)

    def end_id(self, tokenizer: Tokenizer) -> int | None:
        """The special token that the template writes after an answer."""
        probe = [Message("user", "a"), Message("assistant", "b")]
        ends = [run.ids[-1] for run in self.runs(tokenizer, probe) if run.answer]
        return ends[-1]

    def require(self, tokenizer: Tokenizer) -> None:
        """Raise `InputError` if a conversation cannot be written, or an answer has no end."""
        self.end_id(tokenizer)

    def _length(
        self, messages: Sequence[Message], special: SpecialTokens, whole: str, *, asks: bool = False
    ) -> int:
        """The length of the beginning of a conversation, which must be that of the whole."""
        part = self.written(messages, special.variables, asks=asks)
        if not whole.startswith(part):
            raise InputError(
                f"the template {self.name} writes earlier messages otherwise once others follow, so it is "
                "not known where an answer begins; take a template that only appends"
            )
        return len(part)

    def _end_of_answer(self, special: SpecialTokens, whole: str, begin: int, end: int, content: str) -> int:
        """Where the special token after an answer ends."""
        written = whole.find(content.strip(), begin, end)
        after = begin if written < 0 else written + len(content.strip())
        found = special.pattern.search(whole, after, end)
        if found is not None:
            return found.end()
        looks = dict.fromkeys(re.findall(r"<\|?/?[A-Za-z]\w*\|?>", self.jinja))
        missing = ", ".join(token for token in looks if token not in special.ids)
        mend = "write {{ eos_token }} after an answer"
        if missing:
            mend = f"add {missing} with `zhuzi vocab merge --add-token`, and extend the model"
        raise InputError(
            f"the template {self.name} ends an answer with no special token of the tokenizer, so a model "
            f"tuned with it would not stop; {mend}"
        )


class SpecialTokens:
    """The special tokens of a tokenizer, as texts in a rendered template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        control = {p.text: id for id, p in enumerate(tokenizer.pieces()) if p.kind == "CONTROL" and p.text}
        self.ids = control
        self.texts = list(control)
        longest_first = sorted(control, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        self.variables: Mapping[str, str] = {
            name: "" if id is None else tokenizer.id_to_token(id) for name, id in named.items()
        }

    @staticmethod
    @lru_cache(maxsize=4)
    def of(tokenizer: Tokenizer) -> SpecialTokens:
        """That of a tokenizer; made once, as it walks over all pieces."""
        return SpecialTokens(tokenizer)

    def hidden(self, text: str) -> str:
        """A message in which no special token is seen."""
        if _MARK in text:
            raise InputError("a message holds U+F0000, a character without a meaning; take it out")
        return self.pattern.sub(lambda found: f"{_MARK}{self.texts.index(found[0])}{_MARK}", text)

    def _shown(self, text: str) -> str:
        if _MARK not in text:
            return text
        return re.sub(f"{_MARK}([0-9]+){_MARK}", lambda found: self.texts[int(found[1])], text)

    def tail(self, text: str) -> str:
        """What follows the last special token."""
        return self.pattern.split(text)[-1]

    def encoded(self, text: str, before: str) -> list[int]:
        """Ids of a part of a rendered template; `before` is the text in front of it since a special token."""
        ids: list[int] = []
        at = 0
        for found in self.pattern.finditer(text):
            ids += self._text_ids(text[at : found.start()], before)
            ids.append(self.ids[found[0]])
            at, before = found.end(), ""
        return ids + self._text_ids(text[at:], before)

    def _text_ids(self, text: str, before: str) -> list[int]:
        text, before = self._shown(text), self._shown(before)
        if not text:
            return []
        if not before:
            return self.tokenizer.encode(text)
        ours = self.tokenizer.encode(before)
        both = self.tokenizer.encode(before + text)
        if both[: len(ours)] == ours:
            return both[len(ours) :]
        # A token would span both: what a model has read is not encoded anew, so this begins one of its own.
        return self.tokenizer.encode_piece(text.replace(" ", "▁"))
