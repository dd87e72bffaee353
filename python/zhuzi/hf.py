"""`ZhuziTokenizer`: a tokenizer of transformers that encodes with Zhuzi, with sentencepiece's ids for every
vocabulary.

Importing this module registers the class: `AutoTokenizer.from_pretrained` then loads the folders that it
saved.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AddedToken, AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizer

from zhuzi.record.json_file import write_json
from zhuzi.tokenizer import Tokenizer
from zhuzi.tokenizer.files import FAST_FILE, HF_GUARD_FILE, HF_MODEL_FILE

_PATTERNS = {(True, False): "bos", (True, True): "bos_eos", (False, True): "eos", (False, False): "none"}


_Span = tuple[int, int]


class _Encoded(NamedTuple):
    """A text's ids, and where each lies in it (only if that is asked for)."""

    ids: list[int]
    spans: list[_Span]

    def cut(self, length: int, side: str) -> _Encoded:
        """What truncation to so many tokens leaves."""
        length = max(length, 0)
        if side == "right":
            return _Encoded(self.ids[:length], self.spans[:length])
        return _Encoded(self.ids[len(self.ids) - length :], self.spans[max(len(self.spans) - length, 0) :])


class ZhuziTokenizer(PreTrainedTokenizer):  # type: ignore[misc]  # transformers has no types
    """A SentencePiece BPE tokenizer for transformers, with the ids of `zhuzi.Tokenizer`.

    `ZhuziTokenizer.from_pretrained(DIR)` loads any folder with a `tokenizer.model`, and what
    `save_pretrained` wrote. `ZhuziTokenizer(tokenizer)` takes a `zhuzi.Tokenizer`. BOS stands in front of
    each text, as LLaMA's own tokenizer has it (`add_bos_token`, `add_eos_token`). Batches are encoded on
    every core, or on `num_threads`.

    Special tokens written in a text are text (`split_special_tokens=True`, the default here), so that
    documents have sentencepiece's ids; `apply_chat_template` recognises those of the template. After a
    special token a text begins anew, with a `▁` of its own.
    """

    vocab_files_names = {"vocab_file": HF_MODEL_FILE}  # noqa: RUF012  # as in transformers
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        *,
        vocab_file: str | None = None,
        add_bos_token: bool | None = None,
        add_eos_token: bool | None = None,
        num_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        given = tokenizer or _load(vocab_file, kwargs.get("name_or_path"))
        # What is added is known to transformers, which may add more; the model's own pieces to Zhuzi.
        self.tokenizer = Tokenizer(given.model) if given.added_tokens else given
        """The `zhuzi.Tokenizer` of the model's pieces, without the added tokens."""
        self.num_threads = num_threads
        self._vocabulary = {piece.text: id for id, piece in enumerate(self.tokenizer.pieces())}
        kwargs.setdefault("split_special_tokens", True)
        special = {"unk": given.unk_id, "bos": given.bos_id, "eos": given.eos_id, "pad": given.pad_id}
        for name, id in special.items():
            if id is not None:
                kwargs.setdefault(f"{name}_token", given.id_to_token(id))
        decoder = kwargs.setdefault("added_tokens_decoder", {})
        first = self.tokenizer.vocab_size
        own = [id for id in special.values() if id is not None]
        # Tokens of chats that the model itself holds (`vocab merge --added-tokens keep`, Mistral's [INST]).
        own += [id for id, piece in enumerate(self.tokenizer.pieces()) if piece.kind == "CONTROL"]
        for id in {*own, *range(first, given.vocab_size)}:
            decoder.setdefault(id, AddedToken(given.id_to_token(id), special=True, normalized=False))
        before = kwargs.pop("special_tokens_pattern", "none" if given.bos_id is None else "bos")
        bos = "bos" in before if add_bos_token is None else add_bos_token
        eos = "eos" in before if add_eos_token is None else add_eos_token
        kwargs.setdefault("backend", "zhuzi")
        kwargs.setdefault("token_type_ids_pattern", "all_zeros")
        super().__init__(special_tokens_pattern=_PATTERNS[bos, eos], **kwargs)
        # Kept in the saved folder, where transformers leaves out `add_bos_token`.
        self.init_kwargs["special_tokens_pattern"] = self.special_tokens_pattern
        self.init_kwargs["num_threads"] = num_threads

    @property
    def add_bos_token(self) -> bool:
        """Whether BOS stands in front of each text."""
        return "bos" in self.special_tokens_pattern

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self.special_tokens_pattern = _PATTERNS[bool(value), self.add_eos_token]

    @property
    def add_eos_token(self) -> bool:
        """Whether EOS stands after each text."""
        return "eos" in self.special_tokens_pattern

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self.special_tokens_pattern = _PATTERNS[self.add_bos_token, bool(value)]

    @property
    def vocab_size(self) -> int:
        """Number of the model's pieces; `len` counts added tokens too."""
        return self.tokenizer.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Every piece and added token with its id."""
        return {**self._vocabulary, **self._added_tokens_encoder}

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """BOS and EOS as LLaMA's tokenizer adds them, around each of the two."""
        front = [self.bos_token_id] if self.add_bos_token else []
        back = [self.eos_token_id] if self.add_eos_token else []
        second = [] if token_ids_1 is None else [*front, *token_ids_1, *back]
        return [*front, *token_ids_0, *back, *second]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token that `build_inputs_with_special_tokens` adds, 0 for the others."""
        if already_has_special_tokens:
            mask: list[int] = super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
            return mask
        front, back = [1] * self.add_bos_token, [1] * self.add_eos_token
        second = [] if token_ids_1 is None else [*front, *([0] * len(token_ids_1)), *back]
        return [*front, *([0] * len(token_ids_0)), *back, *second]

    def apply_chat_template(
        self, conversation: Any, *args: Any, tokenizer_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """As in transformers; special tokens of the rendered text are recognised."""
        settings = {"split_special_tokens": False, **(tokenizer_kwargs or {})}
        return super().apply_chat_template(conversation, *args, tokenizer_kwargs=settings, **kwargs)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the model, and a tokenizer.json with which other classes fail instead of giving other ids."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        model, guard = (Path(save_directory, prefix + name) for name in (HF_MODEL_FILE, FAST_FILE))
        model.write_bytes(self.tokenizer.model)
        write_json(guard, HF_GUARD_FILE)
        return str(model), str(guard)

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Text of tokens; special and added ones as they are written."""
        ids = [self._known(token) for token in tokens]
        return "".join(
            self._texts([token if id is None else id for token, id in zip(tokens, ids, strict=True)])
        )

    def _known(self, token: str) -> int | None:
        return None if token in self._added_tokens_encoder else self._vocabulary.get(token)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        added = self._added_tokens_decoder
        skipped = {*self.all_special_ids, *(id for id in added if added[id].special)}
        if not skip_special_tokens:
            skipped = set()
        text = "".join(
            self._texts(
                [added[id].content if id in added else id for id in map(int, ids) if id not in skipped]
            )
        )
        clean = (
            self.clean_up_tokenization_spaces
            if clean_up_tokenization_spaces is None
            else clean_up_tokenization_spaces
        )
        return str(self.clean_up_tokenization(text)) if clean else text

    def _texts(self, parts: Sequence[int | str]) -> Iterator[str]:
        """Texts of runs of ids, and what stands between."""
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            if ids:
                yield self.tokenizer.decode(ids)
                ids = []
            yield part
        if ids:
            yield self.tokenizer.decode(ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self.tokenizer.id_to_token(id) for id in self.tokenizer.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocabulary.get(token, self.tokenizer.unk_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokenizer.id_to_token(index)

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        is_split_into_words: bool = False,
        return_offsets_mapping: bool = False,
        return_overflowing_tokens: bool = False,
        split_special_tokens: bool | None = None,
        **settings: Any,
    ) -> BatchEncoding:
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        plain = not (
            is_split_into_words or return_overflowing_tokens or settings.get("sanitize_control_tokens")
        )
        if plain and (given := _texts_and_pairs(text, text_pair)) is not None:
            return self._encode_texts(
                *given, isinstance(text, str), split, offsets=return_offsets_mapping, **settings
            )
        if return_offsets_mapping:
            raise NotImplementedError(
                "ZhuziTokenizer gives offsets for texts and their pairs, not for words and overflowing tokens"
            )
        # transformers encodes parts of a chat with the tokenizer's own setting.
        other = copy.copy(self)
        other.split_special_tokens = split
        return super(ZhuziTokenizer, other)._encode_plus(
            text,
            text_pair,
            is_split_into_words=is_split_into_words,
            return_overflowing_tokens=return_overflowing_tokens,
            split_special_tokens=split,
            **settings,
        )

    def _encode_texts(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None,
        single: bool,
        split: bool,
        *,
        offsets: bool,
        add_special_tokens: bool = True,
        padding_strategy: Any,
        truncation_strategy: Any,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **_: Any,
    ) -> BatchEncoding:
        """Texts or pairs to ids, all at once; everything else as `prepare_for_model` does it, one by one."""
        batch = self._encoded(texts, split, offsets)
        pairs = None if seconds is None else self._encoded(seconds, split, offsets)
        if truncation_strategy.value != "do_not_truncate" and max_length is not None:
            self._truncate(batch, pairs, max_length, truncation_strategy, add_special_tokens)
        rows = list(zip(batch, [None] * len(batch) if pairs is None else pairs, strict=True))
        data: dict[str, Any] = {"input_ids": [self._joined(*row, add_special_tokens) for row in rows]}
        if self._wants("token_type_ids", return_token_type_ids):
            data["token_type_ids"] = [[0] * len(ids) for ids in data["input_ids"]]
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [
                self.get_special_tokens_mask(one.ids, None if other is None else other.ids)
                if add_special_tokens
                else [0] * len(ids)
                for (one, other), ids in zip(rows, data["input_ids"], strict=True)
            ]
        if return_length:
            data["length"] = [len(ids) for ids in data["input_ids"]]
        for ids in data["input_ids"]:
            self._eventual_warn_about_too_long_sequence(ids, max_length, verbose)
        wants_mask = self._wants("attention_mask", return_attention_mask)
        if padding_strategy.value != "do_not_pad":
            data = dict(
                self.pad(
                    data,
                    padding=padding_strategy.value,
                    max_length=max_length,
                    pad_to_multiple_of=pad_to_multiple_of,
                    padding_side=padding_side,
                    return_attention_mask=wants_mask,
                )
            )
        elif wants_mask:
            data["attention_mask"] = [[1] * len(ids) for ids in data["input_ids"]]
        if offsets:
            spans = [self._joined_spans(*row, add_special_tokens) for row in rows]
            data["offset_mapping"] = self._padded(spans, data["input_ids"], padding_side)
        if return_length and single:  # with the padding, as transformers counts a single text
            data["length"] = [len(data["input_ids"][0])]
        if single and return_tensors is None:
            data = {key: value[0] for key, value in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def _encoded(self, texts: Sequence[str], split: bool, offsets: bool) -> list[_Encoded]:
        if offsets:
            return [_Encoded(*self._with_offsets(text, split)) for text in texts]
        return [_Encoded(ids, []) for ids in self._ids(texts, split)]

    def _truncate(
        self,
        batch: list[_Encoded],
        pairs: list[_Encoded] | None,
        max_length: int,
        strategy: Any,
        add_special_tokens: bool,
    ) -> None:
        """Cut what is longer than `max_length` together with its special tokens."""
        special = self.num_special_tokens_to_add(pair=pairs is not None) if add_special_tokens else 0
        for i, one in enumerate(batch):
            other = None if pairs is None else pairs[i]
            excess = len(one.ids) + (0 if other is None else len(other.ids)) + special - max_length
            if excess <= 0:
                continue
            if other is None or pairs is None:
                batch[i] = one.cut(len(one.ids) - excess, self.truncation_side)
                continue
            first, second = _lengths(len(one.ids), len(other.ids), excess, strategy.value)
            batch[i] = one.cut(first, self.truncation_side)
            pairs[i] = other.cut(second, self.truncation_side)

    def _joined(self, one: _Encoded, other: _Encoded | None, add_special_tokens: bool) -> list[int]:
        if add_special_tokens:
            return self.build_inputs_with_special_tokens(one.ids, None if other is None else other.ids)
        return one.ids if other is None else [*one.ids, *other.ids]

    def _joined_spans(self, one: _Encoded, other: _Encoded | None, add_special_tokens: bool) -> list[_Span]:
        front = [(0, 0)] if add_special_tokens and self.add_bos_token else []
        back = [(0, 0)] if add_special_tokens and self.add_eos_token else []
        second = [] if other is None else [*front, *other.spans, *back]
        return [*front, *one.spans, *back, *second]

    def _wants(self, name: str, asked: bool | None) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _padded(
        self, spans: list[list[_Span]], batch: list[list[int]], side: str | None
    ) -> list[list[_Span]]:
        """Offsets, as long as their ids after padding."""
        rest = [[(0, 0)] * (len(ids) - len(span)) for span, ids in zip(spans, batch, strict=True)]
        if (side or self.padding_side) == "left":
            return [pad + span for span, pad in zip(spans, rest, strict=True)]
        return [span + pad for span, pad in zip(spans, rest, strict=True)]

    def _ids(self, texts: Sequence[str], split: bool) -> list[list[int]]:
        """Ids of texts without BOS and EOS; added tokens in them are recognised unless `split`."""
        added = self._added_tokens_encoder
        if split or not any(token in text for token in added for text in texts):
            return self.tokenizer.encode_batch(list(texts), num_threads=self.num_threads).tolist()
        return [self._with_offsets(text, split=False)[0] for text in texts]

    def _with_offsets(self, text: str, split: bool) -> tuple[list[int], list[_Span]]:
        if split:
            return self.tokenizer.encode_with_offsets(text)
        ids: list[int] = []
        spans: list[_Span] = []
        at = 0
        for part in self.tokens_trie.split(text):
            token = self._added_tokens_encoder.get(part)
            if token is not None:
                ids.append(token)
                spans.append((at, at + len(part)))
            else:
                found = self.tokenizer.encode_with_offsets(part)
                ids += found.ids
                spans += [(at + begin, at + end) for begin, end in found.offsets]
            at += len(part)
        return ids, spans


def _texts_and_pairs(text: Any, pair: Any) -> tuple[Sequence[str], Sequence[str] | None] | None:
    """The texts of a call, and what each is paired with; None for anything but texts and pairs of them."""

    def are_texts(batch: Any) -> bool:
        return isinstance(batch, list | tuple) and all(isinstance(one, str) for one in batch)

    if isinstance(text, str):
        return ([text], None if pair is None else [pair]) if pair is None or isinstance(pair, str) else None
    if not isinstance(text, list | tuple):
        return None
    if pair is not None:
        return (text, pair) if are_texts(text) and are_texts(pair) and len(text) == len(pair) else None
    if are_texts(text):
        return text, None
    if all(are_texts(one) and len(one) == 2 for one in text):
        return [one for one, _ in text], [other for _, other in text]
    return None


def _lengths(first: int, second: int, excess: int, strategy: str) -> tuple[int, int]:
    """What is left of the lengths of a pair, as transformers shares the excess out."""
    if strategy != "longest_first":
        return (first - excess, second) if strategy == "only_first" else (first, second - excess)
    # The longer one down to the other, then both in turn.
    alone = min(abs(first - second), excess)
    half = (excess - alone) // 2
    rest = excess - alone - half
    return (first - alone - half, second - rest) if first > second else (first - half, second - alone - rest)


class _Config(PreTrainedConfig):  # type: ignore[misc]
    """Only to register the tokenizer, which is found by its name."""

    model_type = "zhuzi-tokenizer"


def _load(file: str | None, name: object) -> Tokenizer:
    """The tokenizer of a file, or of the folder that `from_pretrained` was given."""
    if isinstance(name, str | os.PathLike) and Path(name).is_dir():
        return Tokenizer.from_dir(name)
    if file is None:
        raise ValueError("give a zhuzi.Tokenizer, or a folder to ZhuziTokenizer.from_pretrained")
    return Tokenizer.from_sentencepiece(file)


AutoTokenizer.register(_Config, ZhuziTokenizer, exist_ok=True)
