"""Which records are worth keeping: length, language, refusals, and nothing twice.

The tests are those of self-instruct (Wang et al. 2022, arXiv 2212.10560), for Chinese: too short or too long,
asking for what text cannot show, like an earlier instruction by ROUGE-L.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zhuzi.instruct.parse import Parsed
from zhuzi.instruct.similar import Similar, tokens_of

#: Why a record is left out, in the order in which it is judged.
REASONS = (
    "too short",
    "too long",
    "not Chinese",
    "a refusal",
    "asks for more than text",
    "asks for what is not given",
    "repeats itself",
    "like a seed",
    "like an earlier one",
)

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_OTHER_WORD = re.compile(r"[^\W\d_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")

_REFUSAL = re.compile(
    r"\A\W*(?:(?:非常|很|十分|真的)?(?:抱歉|对不起|遗憾)[^。！\n]{0,20}(?:无法|不能|没有办法|没办法|不便|不会|没有能力)"
    # Not "作为一名人工智能专业的学生".
    r"|(?:作为|身为|我(?:只)?是)(?:一[个名款位])?"
    r"(?:(?:AI|人工智能)(?=助手|语言|模型|程序|系统|\W|\Z)|大?语言模型|智能助手)"
    r"|我(?:无法|不能|没有办法|没办法)(?:为您|为你|提供|回答|完成|生成|访问|满足|查看|直接)"
    r"|as an? (?:ai|language model)|i(?:'|’)?m sorry|i am sorry"
    r"|i can(?:no|')t (?:help|assist|provide|fulfil))",
    re.IGNORECASE,
)
_MORE_THAN_TEXT = re.compile(
    r"[上下附]图(?!书)|如图|(?:这|该|以下|下面的?|附上的)(?:[张幅段个])?(?:图片|照片|图像|图表|视频|录音|音频)"
    r"|附件[中里]|(?:打开|点击|访问)(?:以下|下面|这个|该)(?:的)?(?:链接|网址|网页)"
    r"|(?:画|生成)一?[张幅](?:\w{0,8})(?:图|画|照片)"
)
_NOT_GIVEN = re.compile(
    r"\A\W*(?:好的|当然|没问题)?\W*(?:请(?:您|你)?(?:先|把|将)?(?:提供|给出|输入|发送|告诉我|粘贴)"
    r"|(?:您|你)(?:没有|还没有|尚未|并未)(?:提供|给出|输入)|(?:由于|因为)(?:没有|未|您未|你未)(?:提供|给出))"
)


@dataclass(frozen=True)
class Filters:
    """What a record must be like. Lengths are in characters.

    Raises:
        ValueError: a number out of range.
    """

    min_instruction: int = 4
    max_instruction: int = 1_000
    max_input: int = 4_000
    max_output: int = 8_000
    min_han: float = 0.5
    """Share of Chinese characters among those and the words of other scripts in the instruction; 0 lets any
    language pass."""
    similarity: float = 0.7
    """ROUGE-L with an earlier instruction, or a seed's, above which one is left out; 1 keeps all but equal
    ones."""
    exact: int = 10_000
    """Records up to which each is compared with all; beyond, with those that MinHash finds."""

    def __post_init__(self) -> None:
        for name in ("min_han", "similarity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: want 0 to 1, not {getattr(self, name)}")
        for name in ("min_instruction", "max_instruction", "max_input", "max_output", "exact"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: want 0 or more, not {getattr(self, name)}")


class Judge:
    """Judges records one after the other: what is kept counts against those that come later."""

    def __init__(self, filters: Filters, seeds: Iterable[Mapping[str, str]]) -> None:
        self._filters = filters
        self._seeds = Similar(filters.similarity, filters.exact)
        self._kept = Similar(filters.similarity, filters.exact)
        self._texts: set[str] = set()
        for seed in seeds:
            tokens = tokens_of(seed["instruction"])
            self._seeds.add(tokens)

    def reason(self, record: Parsed) -> str | None:
        """Why a record is left out, one of `REASONS`; None if it is kept."""
        found = self._of_form(record) or self._of_meaning(record)
        if found:
            return found
        tokens = tokens_of(record.instruction)
        if self._seeds.find(tokens) is not None:
            return "like a seed"
        text = " ".join(tokens)
        if text in self._texts or self._kept.find(tokens) is not None:
            return "like an earlier one"
        self._texts.add(text)
        self._kept.add(tokens)
        return None

    def _of_form(self, record: Parsed) -> str | None:
        limits = self._filters
        instruction, given, output = record.instruction, record.input, record.output
        if len(instruction) < limits.min_instruction:
            return "too short"
        if (
            len(instruction) > limits.max_instruction
            or len(given) > limits.max_input
            or len(output) > limits.max_output
        ):
            return "too long"
        if limits.min_han and (
            han_share(instruction) < limits.min_han or not _HAN.search(instruction + given + output)
        ):
            return "not Chinese"
        return None

    def _of_meaning(self, record: Parsed) -> str | None:
        if _REFUSAL.search(record.output):
            return "a refusal"
        if _MORE_THAN_TEXT.search(record.instruction) and not record.input:
            return "asks for more than text"
        if not record.input and _NOT_GIVEN.search(record.output):
            return "asks for what is not given"
        return "repeats itself" if _is_loop(record.output) else None


def han_share(text: str) -> float:
    """Chinese characters, as a share of them and the words of other scripts; 0 if there are neither."""
    han, others = len(_HAN.findall(text)), len(_OTHER_WORD.findall(text))
    return han / (han + others) if han else 0.0


def _is_loop(text: str) -> bool:
    """Whether a text says the same over and over: it packs to less than a twentieth."""
    data = text.encode()
    return len(data) > 300 and len(zlib.compress(data, 1)) * 20 < len(data)
