"""What the figures of an audit mean: what is wrong, what costs something, what nobody looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from zhuzi._show import count
from zhuzi.vocab.audit.result import AuditedCorpus, AuditedVocab, DeadEntry, Finding

#: Examples that a finding names.
_NAMED = 4


def with_findings(vocab: AuditedVocab, corpus: AuditedCorpus | None) -> AuditedVocab:
    """The vocabulary's audit with its findings, the wrong ones first."""
    found = [*_pieces(vocab), *_corpus(vocab, corpus)]
    order = ("wrong", "warning", "unchecked")
    return dataclasses.replace(vocab, findings=tuple(sorted(found, key=lambda f: order.index(f.kind))))


def _pieces(vocab: AuditedVocab) -> Iterator[Finding]:
    if vocab.moved_base_pieces:
        n = vocab.moved_base_pieces
        yield Finding(
            "wrong",
            "base-moved",
            f"{count(n, 'piece')} of the base have another id here or none: trained rows would not fit",
            f"基础词表有 {n:,} 个词片在这里的编号不同或不存在：训练好的向量对不上",
        )
    if dead := (*vocab.dead_of("new"), *vocab.dead_of("unknown")):
        code, english, chinese = (
            ("dead", "piece", "个词片") if vocab.new_pieces is None else ("dead-new", "new piece", "个新词片")
        )
        yield Finding(
            "wrong",
            code,
            f"{count(len(dead), english)} can never be produced: {_becoming(dead)}",
            f"{len(dead):,} {chinese}永远不会产生：{_becoming(dead)}",
        )
    if dead := vocab.dead_of("killed"):
        yield Finding(
            "wrong",
            "dead-killed",
            f"{count(len(dead), 'piece')} of the base can no longer be produced beside the new ones: "
            f"{_becoming(dead)}",
            f"基础词表的 {len(dead):,} 个词片因新词片而无法再产生：{_becoming(dead)}",
        )
    if dead := vocab.dead_of("base"):
        yield Finding(
            "warning",
            "dead-base",
            f"{count(len(dead), 'piece')} can never be produced, in the base neither: {_becoming(dead)}",
            f"{len(dead):,} 个词片永远不会产生，在基础词表中也是如此：{_becoming(dead)}",
        )
    digits = vocab.digits
    if digits.base_splits and not digits.split:
        shown = " ".join(digits.example_pieces)
        yield Finding(
            "wrong",
            "digits",
            f"the base has one token for each digit, and {count(digits.joined, 'piece')} here "
            f"{'joins' if digits.joined == 1 else 'join'} digits with others ({_some(digits.new_joined)}): "
            f"{digits.example} is {shown}",
            f"基础词表一位数字一个 token，而这里有 {digits.joined:,} 个词片把数字与其他字符连在一起"
            f"（{_some(digits.new_joined)}）：{digits.example} 切成 {shown}",
        )
    if vocab.common.missing:
        missing = vocab.common.characters - vocab.common.covered
        named = _some([character for character, _ in vocab.common.missing], "")
        yield Finding(
            "warning",
            "common-missing",
            f"{missing:,} of the {vocab.common.characters:,} common characters are no token ({named})",
            f"{vocab.common.characters:,} 个通用规范汉字中有 {missing:,} 个不是 token（{named}）",
        )
    if vocab.ties.new:
        yield Finding(
            "warning",
            "ties",
            f"{count(vocab.ties.new, 'new piece')} share their score with others: engines that turn scores "
            "into an order of merges cannot give these ids",
            f"{vocab.ties.new:,} 个新词片与别的词片分数相同：把分数变成合并顺序的引擎给不出这些编号",
        )


def _corpus(vocab: AuditedVocab, corpus: AuditedCorpus | None) -> Iterator[Finding]:
    if corpus is None:
        yield Finding(
            "unchecked",
            "no-corpus",
            "without a corpus (--corpus) neither the engines nor the text of the old language were compared",
            "没有给出语料（--corpus），未比较各引擎，也未比较旧语言的文本",
        )
        return
    yield from _drift(vocab)
    yield from _parity(vocab)
    usage = vocab.usage
    if usage is not None and usage.unused_new:
        n = len(usage.unused_new)
        yield Finding(
            "warning",
            "unused-new",
            f"{count(n, 'new piece')} never occur in the corpus: {_some(usage.unused_new)}",
            f"{n:,} 个新词片从未在语料中出现：{_some(usage.unused_new)}",
        )


def _drift(vocab: AuditedVocab) -> Iterator[Finding]:
    drift = vocab.drift
    if drift is None:
        if not vocab.moved_base_pieces:
            yield Finding(
                "unchecked",
                "no-base",
                "without a base (--base) it is not known what changes for the text of the old language",
                "没有给出基础词表（--base），不知道旧语言的文本有何变化",
            )
        return
    if drift.changed_lines:
        yield Finding(
            "wrong",
            "drift",
            f"text without Han characters has other ids than in the base: {drift.changed_lines:,} of "
            f"{count(drift.lines_without_han, 'line')} ({drift.changed_ids:,} of "
            f"{count(drift.ids_without_han, 'id')})",
            f"不含汉字的文本编号变了：{drift.lines_without_han:,} 行中有 {drift.changed_lines:,} 行"
            f"（{drift.ids_without_han:,} 个编号中有 {drift.changed_ids:,} 个）",
        )
    if drift.longer_lines:
        yield Finding(
            "warning",
            "longer",
            f"{count(drift.longer_lines, 'line')} of {drift.lines:,} have more tokens than in the base",
            f"{drift.lines:,} 行中有 {drift.longer_lines:,} 行的 token 比基础词表还多",
        )


def _parity(vocab: AuditedVocab) -> Iterator[Finding]:
    if vocab.parity is None:
        yield Finding("unchecked", "no-parity", "the engines were not compared", "未比较各引擎")
        return
    for engine in vocab.parity.engines:
        if engine.absent is not None:
            yield Finding(
                "unchecked",
                f"parity-{engine.engine}",
                f"{engine.engine} was not compared ({engine.absent})",
                f"未与 {engine.engine} 比较（{engine.absent}）",
            )
        elif engine.differing:
            yield Finding(
                "wrong",
                f"parity-{engine.engine}",
                f"{engine.engine} gives other ids for {engine.differing:,} of "
                f"{count(engine.documents, 'document')}",
                f"{engine.engine} 在 {engine.documents:,} 篇文档中有 {engine.differing:,} 篇给出不同的编号",
            )


def _becoming(dead: Sequence[DeadEntry]) -> str:
    return _some([f"{entry.piece} → {' '.join(entry.becomes)}" for entry in dead], "; ")


def _some(texts: Sequence[str], between: str = ", ") -> str:
    named = between.join(texts[: _NAMED if between else 12])
    return named + (" ..." if len(texts) > (_NAMED if between else 12) else "")
