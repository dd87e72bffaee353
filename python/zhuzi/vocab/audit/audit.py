"""`audit_vocab`: every check of one or several vocabularies."""

from __future__ import annotations

import os
from collections import Counter as CountOf
from collections.abc import Sequence
from typing import Unpack

from zhuzi import _core
from zhuzi._paths import one_or_more
from zhuzi._process import available_cores
from zhuzi.corpus.options import OnError, ReadKeywords
from zhuzi.errors import naming
from zhuzi.record.place import PathLike
from zhuzi.vocab.audit.checks import (
    Vocab,
    check_digits,
    cover,
    find_dead,
    find_ties,
    moved_pieces,
    open_vocabs,
)
from zhuzi.vocab.audit.corpus import CorpusRun, Progress
from zhuzi.vocab.audit.findings import with_findings
from zhuzi.vocab.audit.result import AuditedVocab, VocabAudit

#: Bytes of documents that every engine encodes, by default: the slowest takes 2 to 3 MB a second.
PARITY_BYTES = 8_000_000


def audit_vocab(
    models: PathLike | Sequence[PathLike],
    *,
    base: PathLike | None = None,
    corpus: PathLike | Sequence[PathLike] = (),
    parity_bytes: int = PARITY_BYTES,
    seed: int = 42,
    on_error: OnError = "stop",
    num_threads: int | None = None,
    progress: Progress | None = None,
    **reading: Unpack[ReadKeywords],
) -> VocabAudit:
    """Find out whether vocabularies are safe to train on, and how they cut a corpus.

    `models` and `base` are SentencePiece BPE models or folders with a `tokenizer.model`. Without a corpus:
    dead pieces, ties, digits, the 8,105 common characters. With one (inputs and `reading` as for
    `read_texts`), read once in bounded memory: pieces that are never used, tokens by source, the characters
    without a token; against the base, ids that changed on text without Han and texts that became longer; and
    whether sentencepiece, transformers' tokenizers and llama.cpp, as far as they are installed, give the same
    ids for a random sample of `parity_bytes` (0 leaves this out).

    Wrong, so that `VocabAudit.safe` is False, are: dead pieces that are new or killed by new ones (any
    without a base), base pieces that have another id, changed ids on text without Han, digits that the base
    splits and this vocabulary does not, other ids in an engine. `progress(done, total)` is called with bytes.

    Raises:
        ModelFileError: a damaged model, or one that is not BPE.
        InputError: a record that cannot be read, a corpus without text.
        ValueError: no model, arguments that cannot be.
    """
    paths = one_or_more(models)
    if not paths:
        raise ValueError("no vocabulary; name a tokenizer folder or a SentencePiece model")
    if parity_bytes < 0:
        raise naming(ValueError, ("parity_bytes", None), f" is {parity_bytes}; give 0 or more")
    threads = num_threads if num_threads is not None else available_cores()
    if threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {threads}")
    vocabs = open_vocabs(paths)
    against = None if base is None else open_vocabs([base])[0]
    audited = [_audit_pieces(vocab, against) for vocab in vocabs]
    text = None
    if inputs := one_or_more(corpus):
        run = CorpusRun(vocabs, against, parity_bytes, seed, threads, progress)
        run.read(inputs, on_error, reading)
        audited = [run.completed(vocab) for vocab in audited]
        text = run.text()
    return VocabAudit(
        tuple(with_findings(vocab, text) for vocab in audited),
        base=None if base is None else os.fspath(base),
        corpus=text,
    )


def _audit_pieces(vocab: Vocab, base: Vocab | None) -> AuditedVocab:
    """What can be said without a corpus."""
    new = vocab.new(base)
    return AuditedVocab(
        name=vocab.name,
        path=os.fspath(vocab.path),
        fingerprint=vocab.tokenizer.fingerprint,
        vocab_size=vocab.tokenizer.vocab_size,
        kinds=dict(CountOf(vocab.kinds[: len(vocab.kinds) - len(vocab.tokenizer.added_tokens)])),
        added_tokens=vocab.tokenizer.added_tokens,
        new_pieces=None if new is None else len(new),
        moved_base_pieces=None if base is None else moved_pieces(vocab, base),
        dead=find_dead(vocab, base),
        ties=find_ties(vocab, new),
        digits=check_digits(vocab, base),
        common=cover(vocab, _core.common_han()),
        usage=None,
        drift=None,
        parity=None,
        findings=(),
    )
