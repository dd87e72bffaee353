"""Texts and ids as people have them: lists, arrays, columns, tensors; and what is none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from texts import HARD_TEXTS
from zhuzi import Tokenizer

TEXTS = ["春天来了", "a b", ""]


@pytest.fixture(scope="module")
def tokenizer(merged):  # type: ignore[no-untyped-def]
    return Tokenizer.from_dir(merged)


def test_arrow_arrays_are_read_in_place(tokenizer: Tokenizer, chinese_texts: list[str]) -> None:
    pa = pytest.importorskip("pyarrow")
    texts = [*chinese_texts[:20], "", *HARD_TEXTS, "", *chinese_texts[:5]]
    wanted = [tokenizer.encode(text) for text in texts]
    plain = pa.array(texts, type=pa.string())
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
    arrays = [plain.cast(kind) for kind in kinds]
    arrays += [array.dictionary_encode() for array in arrays if array.type != pa.string_view()]
    for array in arrays:
        assert tokenizer.encode_batch(array).tolist() == wanted, array.type
        assert tokenizer.encode_batch(array[3:25]).tolist() == wanted[3:25], array.type
        chunked = pa.chunked_array([array[:7], array[7:7], array[7:]])
        assert tokenizer.encode_batch(chunked, num_threads=2).tolist() == wanted, array.type
    for empty in (pa.chunked_array([], pa.string()), pa.nulls(0), plain[:0].dictionary_encode()):
        assert tokenizer.encode_batch(empty).tolist() == []


def columns() -> dict[str, Callable[[list[Any]], object]]:
    def pandas(**options: object) -> Callable[[list[Any]], object]:
        return lambda texts: pytest.importorskip("pandas").Series(texts, **options)

    def polars(kind: str) -> Callable[[list[Any]], object]:
        def make(texts: list[Any]) -> object:
            pl = pytest.importorskip("polars")
            kinds = {"str": pl.String, "cat": pl.Categorical, "enum": pl.Enum([*{*texts} - {None}])}
            return pl.Series(texts, dtype=kinds[kind])

        return make

    return {
        "list": list,
        "generator": iter,
        "object array": lambda texts: pytest.importorskip("numpy").array(texts, object),
        "pandas object": pandas(dtype=object),
        "pandas string": pandas(dtype="string"),
        "pandas category": pandas(dtype="category"),
        "pyarrow": lambda texts: pytest.importorskip("pyarrow").array(texts),
        "pyarrow dictionary": lambda texts: pytest.importorskip("pyarrow").array(texts).dictionary_encode(),
        "polars": polars("str"),
        "polars categorical": polars("cat"),
        "polars enum": polars("enum"),
    }


@pytest.mark.parametrize("make", columns().values(), ids=columns().keys())
def test_columns_of_texts(make: Callable[[list[Any]], object], tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(make(TEXTS)).tolist() == [tokenizer.encode(text) for text in TEXTS]
    with pytest.raises(
        TypeError, match=r"text 2 is missing \((None|null|nan|<NA>)\); leave it out, or put ''"
    ):
        tokenizer.encode_batch(make([*TEXTS[:2], None, "x"]))


def test_missing_texts_of_every_name(tokenizer: Tokenizer) -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    chunked = pa.chunked_array([["a", "b"], [], ["c", None]])
    for batch, at in [
        (["a", float("nan")], 1),
        (["a", "b", pd.NA], 2),
        ([pd.NaT], 0),
        (pd.Series(["a", float("nan")], dtype=object), 1),
        (chunked, 3),
        (chunked[1:], 2),
        (pa.nulls(2), 0),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None])), 1),
    ]:
        with pytest.raises(TypeError, match=f"text {at} is missing"):
            tokenizer.encode_batch(batch)


def test_what_is_no_batch_of_texts(tokenizer: Tokenizer) -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for wrong, message in [
        (pa.array([1, 2]), "want an Arrow array of strings or bytes, not of Int64; cast it to strings first"),
        (pa.array([["a"]]), "flatten it first"),
        (pa.table({"text": ["a"]}), "of a table, give one column"),
        (pd.DataFrame({"text": ["a"]}), "of a table, give one column"),
        ({"text": ["a"]}, "want a list of texts, not a dict; give one of its values"),
        (["a", 3], "text 1 must be str or bytes, not int"),
        (pd.Series(["a", 3], dtype=object), "text 1 must be str or bytes, not int"),
        (list(pa.array(["a"])), "text 0 must be str or bytes, not StringScalar"),
        (3, "want a list of texts, not int"),
        ("a", "for one text there is encode"),
    ]:
        with pytest.raises(TypeError, match=message):
            tokenizer.encode_batch(wrong)
    with pytest.raises((TypeError, ValueError)):
        tokenizer.encode_batch(pd.DataFrame({"text": ["a", 3]}))  # never its column names
    with pytest.raises(ZeroDivisionError):
        tokenizer.encode_batch(str(1 // n) for n in (1, 0))


def test_decoding_batches(tokenizer: Tokenizer, chinese_texts: list[str]) -> None:
    np = pytest.importorskip("numpy")
    batch = tokenizer.encode_batch(chinese_texts)
    for given in (batch, batch.tolist(), list(batch), tuple(batch), (ids for ids in batch)):
        assert tokenizer.decode_batch(given) == chinese_texts
    assert tokenizer.decode_batch([]) == []
    ids = tokenizer.encode(TEXTS[0])
    assert tokenizer.decode_batch(np.array([ids, ids])) == [TEXTS[0]] * 2
    with pytest.raises(TypeError, match="for those of one there is decode"):
        tokenizer.decode_batch(np.array(ids))
    with pytest.raises(IndexError, match=r"text 1: ids\[2\] is -100, outside .* labels without loss: leave"):
        tokenizer.decode_batch([ids, [*ids[:2], -100]])


def test_decoding_ids_of_every_kind(tokenizer: Tokenizer) -> None:
    np, pa = pytest.importorskip("numpy"), pytest.importorskip("pyarrow")
    ids = tokenizer.encode(TEXTS[0])
    arrays = [np.array(ids), np.array(ids, np.uint16), list(np.array(ids)), pa.array(ids), iter(ids)]
    for given in (ids, tuple(ids), *arrays):
        assert tokenizer.decode(given) == TEXTS[0]
    assert tokenizer.decode([]) == tokenizer.decode(np.array([], int)) == ""
    for wrong, message in [
        (np.array([ids]), "for those of several there is decode_batch"),
        ([ids], "for those of several there is decode_batch"),
        (ids[0], r"not int; for one id give \[id\]"),
        (np.int64(3), r"for one id give \[id\]"),
        ([*ids, 1.0], rf"ids\[{len(ids)}\] must be an integer, not 1\.0"),
        (np.array([1.0]), r"ids\[0\] must be an integer"),
        ([None], r"ids\[0\] must be an integer, not None"),
        ("文", "decode wants a sequence of ids, not str"),
    ]:
        with pytest.raises(TypeError, match=message):
            tokenizer.decode(wrong)
    for number in (-100, 99_999, 2**40, -(2**70)):
        with pytest.raises(IndexError, match=rf"ids\[1\] is {number}, outside the vocabulary"):
            tokenizer.decode([5, number])
