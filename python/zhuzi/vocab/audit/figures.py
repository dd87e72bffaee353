"""The figures of an audit as rows: a name in two languages, and a cell for each vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zhuzi.vocab.engines import ENGINES

if TYPE_CHECKING:
    from zhuzi.vocab.audit.result import AuditedVocab, Drift, Usage, VocabAudit

    _Cell = Callable[[AuditedVocab], str | None]


@dataclass(frozen=True)
class Row:
    """One figure of every vocabulary."""

    english: str
    chinese: str
    cells: tuple[str, ...]


def rows(audit: VocabAudit) -> list[Row]:
    """The figures that at least one of the vocabularies has."""
    found = []
    for english, chinese, cell in _figures(audit):
        cells = [cell(vocab) for vocab in audit.vocabularies]
        if any(shown is not None for shown in cells):
            found.append(Row(english, chinese, tuple(shown or "" for shown in cells)))
    return found


def _figures(audit: VocabAudit) -> Iterator[tuple[str, str, _Cell]]:
    yield "ids", "编号数", lambda v: f"{v.vocab_size:,}"
    yield "new pieces", "新词片", lambda v: _number(v.new_pieces)
    if audit.base is None:
        yield "dead pieces", "死词片", lambda v: f"{len(v.dead):,}"
    else:
        yield "dead pieces, new", "死词片：新的", lambda v: f"{len(v.dead_of('new')):,}"
        yield (
            "dead pieces, killed by new ones",
            "死词片：因新词片而死",
            lambda v: f"{len(v.dead_of('killed')):,}",
        )
        yield (
            "dead pieces, in the base too",
            "死词片：基础词表中已死",
            lambda v: f"{len(v.dead_of('base')):,}",
        )
    yield "pieces whose score is shared", "分数相同的词片", lambda v: f"{v.ties.pieces:,}"
    yield "of them new", "其中新的", lambda v: _number(v.ties.new)
    yield "one token for each digit", "一位数字一个 token", _digits
    yield (
        "common characters that are tokens",
        "是 token 的通用规范汉字",
        lambda v: f"{v.common.covered:,} of {v.common.characters:,}",
    )
    if audit.corpus is not None:
        yield from _of_corpus()


def _of_corpus() -> Iterator[tuple[str, str, _Cell]]:
    yield "tokens", "token 数", _used(lambda u: f"{u.tokens:,}")
    yield "tokens of the base", "基础词表的 token 数", _used(lambda u: _number(u.base_tokens))
    yield "bytes per token", "字节/token", _used(lambda u: _per_token(u, "bytes"))
    yield "characters per token", "字符/token", _used(lambda u: _per_token(u, "characters"))
    yield "characters that are tokens", "是 token 的字符", _used(lambda u: _percent(u.coverage.share))
    yield "byte tokens", "字节 token", _used(lambda u: _percent(u.byte_tokens / max(u.tokens, 1)))
    yield "unknown tokens", "未知 token", _used(lambda u: _number(u.unknown_tokens or None))
    yield "pieces never used", "未使用的词片", _used(lambda u: f"{u.unused:,}")
    yield (
        "new pieces never used",
        "未使用的新词片",
        _used(lambda u: None if u.unused_new is None else f"{len(u.unused_new):,}"),
    )
    yield "Renyi efficiency (2.5)", "Rényi 效率（2.5）", _used(lambda u: f"{u.renyi_efficiency:.4f}")
    yield (
        "lines without Han, ids changed",
        "无汉字的行：编号改变",
        _changed(lambda d: _of(d.changed_lines, d.lines_without_han)),
    )
    yield "lines that became longer", "变长的行", _changed(lambda d: _of(d.longer_lines, d.lines))
    for engine in ENGINES[1:]:
        yield f"same ids as {engine}", f"与 {engine} 编号相同", partial(_parity, engine)


def _used(cell: Callable[[Usage], str | None]) -> _Cell:
    return lambda vocab: None if vocab.usage is None else cell(vocab.usage)


def _changed(cell: Callable[[Drift], str]) -> _Cell:
    return lambda vocab: None if vocab.drift is None else cell(vocab.drift)


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _digits(vocab: AuditedVocab) -> str:
    return "yes" if vocab.digits.split else f"no ({vocab.digits.joined:,} pieces)"


def _percent(share: float) -> str:
    return f"{100 * share:.3f} %"


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _per_token(usage: Usage, what: str) -> str:
    text: int = sum(getattr(source, what) for source in usage.sources)
    return f"{text / max(usage.tokens, 1):.3f}"


def _parity(name: str, vocab: AuditedVocab) -> str | None:
    for engine in vocab.parity.engines if vocab.parity is not None else ():
        if engine.engine == name:
            if engine.absent is not None:
                return "not compared"
            return _of(engine.documents - engine.differing, engine.documents)
    return None
