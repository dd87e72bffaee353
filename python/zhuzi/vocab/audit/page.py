"""An audit as one self-contained HTML page."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zhuzi.corpus.characters import visible
from zhuzi.pages import Text, render
from zhuzi.record.place import PathLike
from zhuzi.vocab.audit.figures import rows

if TYPE_CHECKING:
    from zhuzi.vocab.audit.result import AuditedVocab, DeadEntry, VocabAudit

#: Sources that the chart and the table show, the largest.
_SOURCES = 16
#: Pieces that no text becomes, of each origin, with what their text becomes.
_EXAMPLES = 5
#: Entries of a folded list.
_LISTED = 2000
#: Series that a chart can tell apart.
_COLOURS = 5


def audit_page(audit: VocabAudit, path: PathLike) -> str:
    """The page; `path` is where it will be, for the command in it."""
    packages = ("sentencepiece", "tokenizers", "transformers", "llama-cpp-python")
    return render(
        "vocab/audit/audit.html.j2",
        title=(
            "Audit: " + ", ".join(vocab.name for vocab in audit.vocabularies),
            "词表检查：" + "、".join(vocab.name for vocab in audit.vocabularies),
        ),
        lead=(
            "Is this vocabulary safe to train on, and what does it do to the text?",
            "这个词表能放心用来训练吗？它把文本切成了什么样？",
        ),
        command=_command(audit, path),
        fingerprints={vocab.name: vocab.fingerprint for vocab in audit.vocabularies},
        packages=packages,
        next_commands=_next(audit),
        audit=audit,
        rows=[[(row.english, row.chinese), *map(_cell, row.cells)] for row in rows(audit)],
        verdicts=[(vocab, vocab.safe, _verdict(vocab)) for vocab in audit.vocabularies],
        sources=_sources(audit),
        series=_series(audit),
        examples=[_examples(vocab) for vocab in audit.vocabularies],
        missing=[_missing(vocab) for vocab in audit.vocabularies],
        listed=_LISTED,
    )


def _cell(english: str) -> Text:
    """A figure of the table; its few words in Chinese too."""
    if english == "yes":
        return english, "是"
    chinese = re.sub(r"^no \(([\d,]+) pieces\)$", r"否（\1 个词片）", english).replace(" of ", " / ")
    return english if chinese == english else (english, chinese)


def _verdict(vocab: AuditedVocab) -> Text:
    if not vocab.safe:
        return f"{vocab.name}: not safe to train on", f"{vocab.name}：不要用它训练"
    if vocab.of_kind("unchecked"):
        return (
            f"{vocab.name}: nothing wrong, as far as was looked",
            f"{vocab.name}：就已检查的部分而言没有问题",
        )
    return f"{vocab.name}: safe to train on", f"{vocab.name}：可以放心用来训练"


def _command(audit: VocabAudit, path: PathLike) -> list[str]:
    words = ["zhuzi", "vocab", "audit", *(vocab.path for vocab in audit.vocabularies)]
    if audit.base is not None:
        words += ["--base", audit.base]
    for given in audit.corpus.inputs if audit.corpus is not None else ():
        words += ["--corpus", given]
    return [*words, "--html", os.fspath(path)]


def _next(audit: VocabAudit) -> list[tuple[Text, str]]:
    if audit.corpus is None:
        command = shlex.join(_command(audit, "audit.html"))
        return [(("Judge it on text", "用文本来检查"), f"{command} --corpus TEXT")]
    safe = next((vocab for vocab in audit.vocabularies if vocab.safe and vocab.new_pieces), None)
    if safe is None:
        return []
    return [
        (
            ("Extend the model with it", "用它扩展模型"),
            f"zhuzi model extend --model BASE --tokenizer {safe.path} --out EXTENDED",
        )
    ]


def _series(audit: VocabAudit) -> list[Text]:
    base: list[Text] = [("base", "基础词表")] if audit.base is not None else []
    return [*base, *(vocab.name for vocab in audit.vocabularies)][:_COLOURS]


def _sources(audit: VocabAudit) -> list[tuple[str, list[float]]]:
    """Characters per token of the largest sources, by vocabulary."""
    usages = [vocab.usage for vocab in audit.vocabularies if vocab.usage is not None]
    if not usages:
        return []
    names = _short([source.path for source in usages[0].sources])
    largest = sorted(range(len(names)), key=lambda place: -usages[0].sources[place].bytes)
    found = []
    for place in largest[:_SOURCES]:
        first = usages[0].sources[place]
        if not first.characters:
            continue
        tokens = [] if first.base_tokens is None else [first.base_tokens]
        tokens += [usage.sources[place].tokens for usage in usages]
        found.append((names[place], [first.characters / max(n, 1) for n in tokens][:_COLOURS]))
    return found


def _examples(vocab: AuditedVocab) -> list[DeadEntry]:
    """The first of each origin: in the order of ids, those of the base would be the only ones."""
    origins = dict.fromkeys(entry.origin for entry in vocab.dead)
    return [entry for origin in origins for entry in vocab.dead_of(origin)[:_EXAMPLES]]


def _missing(vocab: AuditedVocab) -> list[tuple[str, int]]:
    found = vocab.usage.coverage.missing if vocab.usage is not None else ()
    return [(visible(character), n) for character, n in found[:15]]


def _short(paths: Sequence[str]) -> list[str]:
    """The paths without the folder that they share."""
    if len(paths) < 2:
        return [os.path.basename(path) for path in paths]  # noqa: PTH119  # also of -
    try:
        common = os.path.commonpath(paths)
    except ValueError:
        return list(paths)
    return [os.path.relpath(path, common) if common else path for path in paths]
