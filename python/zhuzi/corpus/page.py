"""The page of `corpus stats --html`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from zhuzi.corpus.characters import visible
from zhuzi.pages import render

if TYPE_CHECKING:
    from zhuzi.corpus.stats import CorpusStats

#: Sources with a row of their own; of more, those with the most tokens.
_SOURCES = 40


def stats_page(stats: CorpusStats, path: Path) -> str:
    """The figures of a corpus as one HTML page, to be written to `path`."""
    tokenizer = str(stats.tokenizer or "TOKENIZER")
    folder = str(stats.folder)
    command = ["zhuzi", "corpus", "stats", folder, "--tokenizer", tokenizer]
    command += ["--base", stats.base] if stats.base else []
    sources = sorted(stats.sources, key=lambda source: -source.tokens)
    return render(
        "corpus/stats.html.j2",
        title=(f"Corpus {stats.folder.name}", f"语料 {stats.folder.name}"),
        command=[*command, "--html", str(path)],
        fingerprints={"tokenizer": stats.tokenizer_fingerprint},
        packages=["numpy"],
        next_commands=[
            (("Check every byte", "检查每一个字节"), shlex.join(["zhuzi", "corpus", "verify", folder])),
            (("Look at a document", "查看一篇文档"), stats.show_command(0)),
        ],
        stats=stats,
        lengths=[
            (f"{length:,}–{2 * length - 1:,}" if length > 1 else "1", n) for length, n in stats.histogram
        ],
        missing=[(visible(character), n) for character, n in stats.missing_characters],
        worst=[(d.number, d.tokens, d.characters, f"{d.characters_a_token:.2f}") for d in stats.worst],
        shares=[(n, 100 * share) for n, share in stats.cumulative_new],
        sources=sources[:_SOURCES],
        more_sources=len(sources[_SOURCES:]),
    )
