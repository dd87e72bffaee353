"""Tensors of ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhuzi import Tokenizer

torch = pytest.importorskip("torch")


def test_decoding_tensors(merged: Path) -> None:
    tokenizer = Tokenizer.from_dir(merged)
    ids = tokenizer.encode("春天来了")
    assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(list(torch.tensor(ids))) == "春天来了"
    assert tokenizer.decode_batch(torch.tensor([ids, ids])) == ["春天来了"] * 2
    assert tokenizer.decode_batch([torch.tensor(ids)]) == ["春天来了"]
    with pytest.raises(TypeError, match="decode_batch"):
        tokenizer.decode(torch.tensor([ids]))
    with pytest.raises(TypeError, match="for one id"):
        tokenizer.decode(torch.tensor(3))
    with pytest.raises(IndexError, match="-100 marks labels"):
        tokenizer.decode(torch.tensor([-100, *ids]))
