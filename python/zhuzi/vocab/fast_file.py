"""`tokenizer.json` for a SentencePiece BPE vocabulary: how it is built, and when it is exact.

The `tokenizers` library merges the pair of the lowest rank first, the leftmost of several. SentencePiece
merges the pair whose piece has the highest score first, again the leftmost. With pieces ranked by score the
two do the same as long as no two scores are equal. Where they are, SentencePiece takes the leftmost *of all
pairs with that score*, which no order of ranks can say; pieces of one repeated character may tie all the same
(LLaMA's runs of white space), as `_ties_hold` shows.

A text is not split into words first (no pre-tokenizer), and gets its `▁` from two normalisers: transformers'
own conversion of a LLaMA does the same in another way, and gives other ids after special tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from zhuzi import _core
from zhuzi._show import count, some
from zhuzi.tokenizer import Piece, Tokenizer

SPACE = "▁"

#: Tied pieces of one character up to which all their pairs are checked.
_LARGEST_TIE = 64


class _Merge(NamedTuple):
    id: int
    score: float
    splits: list[tuple[str, str]]


def fast_file(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` with these pieces and added tokens.

    It gives the ids of `tokenizer` if `why_inexact` returns None. Otherwise ties are broken by id, which is
    as good a guess as the file can hold: useful only to count how many documents differ.
    """
    pieces = tokenizer.pieces()
    settings = _settings(tokenizer)
    first = tokenizer.vocab_size - len(tokenizer.added_tokens)
    special = [id for id, piece in enumerate(pieces) if piece.kind in ("CONTROL", "UNKNOWN") or id >= first]
    user_defined = [id for id, piece in enumerate(pieces) if piece.kind == "USER_DEFINED"]
    merges = sorted(_merges(_live(tokenizer, pieces), pieces), key=lambda merge: (-merge.score, merge.id))
    spaces = [{"type": "Prepend", "prepend": SPACE}] if settings["add_dummy_prefix"] else []
    bos = tokenizer.bos_id
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": pieces[id].text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": pieces[id].kind != "USER_DEFINED",
            }
            for id in sorted(special + user_defined)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*spaces, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
        },
        "pre_tokenizer": None,
        "post_processor": None if bos is None else _with_bos(pieces[bos].text, bos),
        "decoder": _decoder(strip=settings["add_dummy_prefix"]),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[tokenizer.unk_id].text,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": settings["byte_fallback"],
            "ignore_merges": False,
            "vocab": {piece.text: id for id, piece in enumerate(pieces[:first])},
            "merges": [list(split) for merge in merges for split in merge.splits],
        },
    }


def why_inexact(tokenizer: Tokenizer) -> str | None:
    """Why no `tokenizer.json` gives the ids of this vocabulary; None if `fast_file` does."""
    pieces = tokenizer.pieces()
    settings = _settings(tokenizer)
    kinds = {piece.kind for piece in pieces}
    for wrong, what in (
        (settings["has_charsmap"], "the model maps characters (NFKC or the like) before it merges"),
        (settings["remove_extra_whitespaces"], "the model trims and collapses white space"),
        (not settings["escape_whitespaces"], "the model leaves spaces as they are"),
        (settings["whitespace_as_suffix"], "the model puts the dummy ▁ after the text"),
        (
            "USER_DEFINED" in kinds,
            "the model has user-defined pieces, which are cut out after the dummy ▁ is added",
        ),
        ("UNUSED" in kinds, "the model has unused pieces, which are split again"),
    ):
        if wrong:
            return what
    normal = {piece.text for piece in pieces if piece.kind == "NORMAL"}
    live = _live(tokenizer, pieces)
    # SentencePiece joins such characters all the same; merges are of two pieces.
    lacking = sorted({letter for text in live if len(text) > 1 for letter in text} - normal)
    if lacking:
        return f"pieces hold characters that are no pieces themselves: {some(lacking)}"
    other = [piece.text for piece in pieces if len(piece.text) == 1 and piece.kind not in ("NORMAL", "BYTE")]
    if other:
        return f"characters that text must not become are pieces: {some(other)}"
    merges = _merges(live, pieces)
    ties: dict[float, list[_Merge]] = defaultdict(list)
    for merge in merges:
        ties[merge.score].append(merge)
    tied = [group for group in ties.values() if len(group) > 1]
    bad = [group for group in tied if not _ties_hold(group, pieces, merges)]
    if not bad:
        return None
    worst = max(bad, key=len)
    return (
        f"{count(sum(map(len, bad)), 'piece')} share their scores with others ({len(worst):,} have "
        f"{worst[0].score:g}: {some([pieces[merge.id].text for merge in worst])}); ties go to the leftmost "
        "pair, which ranks cannot express"
    )


def _settings(tokenizer: Tokenizer) -> _core._ModelSettings:
    return _core.model_settings(tokenizer.model, "model")


def _live(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> dict[str, int]:
    """The pieces that texts can become: one that its own text does not become is made by no text."""
    return {
        piece.text: id
        for id, piece in enumerate(pieces)
        if piece.kind == "NORMAL" and (len(piece.text) == 1 or tokenizer.encode_piece(piece.text) == [id])
    }


def _merges(live: Mapping[str, int], pieces: Sequence[Piece]) -> list[_Merge]:
    """The pieces that texts can become, with the pairs of pieces that spell them.

    Only one of a piece's pairs is ever seen: in whatever text, a piece is made as its own text alone makes
    it. The others do no harm.
    """
    found = []
    for text, id in live.items():
        splits = [
            (text[:at], text[at:]) for at in range(1, len(text)) if text[:at] in live and text[at:] in live
        ]
        if splits:
            found.append(_Merge(id, pieces[id].score, splits))
    return found


def _ties_hold(group: Sequence[_Merge], pieces: Sequence[Piece], merges: Sequence[_Merge]) -> bool:
    """Whether merges of one score give the same ids in the order of their ids as from left to right.

    True, first, if what they make is part of nothing else than of each other: then, once every better merge
    is done, they are all that happens for a while. And if they are built of characters by themselves, it is
    enough that every two of their pieces side by side come out alike: a sequence of pieces is the result if
    every two neighbours in it are (docs/engine.md), in both orders.
    """
    made = {pieces[merge.id].text for merge in group}
    if len(group) > _LARGEST_TIE:
        return False
    others = (split for merge in merges if merge not in group for split in merge.splits)
    if any(part in made for split in others for part in split):
        return False
    operands = {part for merge in group for split in merge.splits for part in split}
    if any(len(part) > 1 and part not in made for part in operands):
        return False
    ranks = {split: rank for rank, merge in enumerate(sorted(group)) for split in merge.splits}
    level = dict.fromkeys(ranks, 0)
    texts = [left + right for left in made | operands for right in made | operands]
    return all(_merged(text, ranks) == _merged(text, level) for text in texts)


def _merged(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """BPE in its simplest form: the pair of the lowest rank, the leftmost of several, until none is left."""
    parts = list(text)
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            return parts
        at = min(found)[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]


def _with_bos(bos: str, id: int) -> dict[str, Any]:
    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": bos, "type_id": type_id}},
            {"Sequence": {"id": name, "type_id": type_id}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    }


def _decoder(*, strip: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if strip:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
