"""Vocabularies: lists of values, their files, and the transform that looks values up."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.transforms import (
    InvalidValue,
    ValueSet,
    Vocabulary,
    hash_values,
    read_vocabulary,
    write_vocabulary,
)
from workers.data.transforms import value_set as value_set_module
from workers.data.transforms.value_index import ValueIndex
from workers.errors import DataError, ProgramError

STRINGS = st.text(max_size=3)
INTEGERS = st.integers(-5, 20)
LISTS = st.one_of(
    st.tuples(st.lists(STRINGS, min_size=1, unique=True), st.lists(STRINGS)),
    st.tuples(st.lists(INTEGERS, min_size=1, unique=True), st.lists(INTEGERS)),
)


@given(LISTS, st.integers(1, 4), st.booleans(), st.booleans())
def test_ids_are_places_and_unknown_values_share_rows(
    lists: tuple[list[Any], list[Any]], unknown: int, encoded: bool, chunked: bool
) -> None:
    values, seen = lists
    kind = pa.array(values).type
    column: Any = pa.array(seen, kind)
    column = column.dictionary_encode() if encoded else column
    column = pa.chunked_array([column, column]) if chunked else column
    ids = Vocabulary("a", ValueSet(values), unknown).apply(pa.table({"a": column})).ravel()
    hashes = hash_values(pa.array(seen, kind))
    wanted = [
        values.index(value) if value in values else len(values) + int(h) % unknown
        for value, h in zip(seen, hashes, strict=True)
    ]
    assert ids.dtype == np.int32
    assert ids.tolist() == wanted * (2 if chunked else 1)


def test_unknown_values_and_nulls_as_told() -> None:
    table = pa.table({"a": ["x", "?", None, "y"]})
    values = ValueSet(["x", "y"])
    own = Vocabulary("a", values, unknown=1, missing="own")
    assert (own.vocabulary_size, own.apply(table).ravel().tolist()) == (4, [0, 2, 3, 1])
    skip = Vocabulary("a", values, unknown="skip", missing="skip")
    assert (skip.vocabulary_size, skip.apply(table).ravel().tolist()) == (2, [0, -1, -1, 1])
    refuse = Vocabulary("a", values, unknown="refuse", missing="own")
    assert refuse.vocabulary_size == 3
    with pytest.raises(InvalidValue, match=r"'\?' is not among the 2 values of vocabulary") as e:
        refuse.apply(table)
    assert e.value.row == 1
    with pytest.raises(InvalidValue, match="null") as e:
        Vocabulary("a", values).apply(table)
    assert e.value.row == 2
    # A null is no unknown value.
    assert refuse.apply(table.slice(2)).ravel().tolist() == [2, 1]


def test_many_values_are_found_whatever_their_hashes() -> None:
    values = pa.array(np.arange(0, 200_000, 2))
    found = ValueSet(values).find(pa.array(np.arange(200_000)))
    assert np.array_equal(found[::2], np.arange(100_000))
    assert (found[1::2] == -1).all()
    # All in the same slot at first: probing goes on, and around the end.
    crowded = (np.arange(1, 40, dtype=np.uint64) << np.uint64(32)) - np.uint64(1)
    index = ValueIndex(crowded)
    assert index.find(crowded).tolist() == list(range(39))
    assert index.find(crowded + np.uint64(2**50)).tolist() == [-1] * 39
    assert ValueIndex(np.zeros(1, np.uint64)).find(np.array([0, 1], np.uint64)).tolist() == [0, -1]


def test_values_with_the_same_hash_are_told_apart_by_another_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def colliding(values: pa.Array, seed: int = 0) -> np.ndarray:
        return hash_values(values, seed) if seed else np.zeros(len(values), np.uint64)

    monkeypatch.setattr(value_set_module, "hash_values", colliding)
    values = ValueSet(["a", "b", "c"])
    assert values.seed == 1
    assert values.find(pa.array(["c", "a", "z"])).tolist() == [2, 0, -1]


def test_lists_that_cannot_be_vocabularies() -> None:
    for values, problem in (
        (["a", "b", "a"], "'a' is there twice, as values 1 and 3"),
        ([7, 7], "7 is there twice, as values 1 and 2"),
        (["a", None], "value 2 is null"),
        ([], "values are null"),
        (pa.array([], pa.string()), "it has 0 values"),
        ([1.5], "values are double"),
        ([2**70], "cannot be read as strings or 64-bit integers"),
        (pa.array([b"\xff"]), "cannot be read as strings"),
    ):
        with pytest.raises(DataError, match=problem):
            ValueSet(values)


def test_vocabularies_are_values() -> None:
    one, same, other = ValueSet(["a", "b"]), ValueSet(["a", "b"]), ValueSet(["b", "a"])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert repr(Vocabulary("c", one)) == repr(Vocabulary("c", same)) != repr(Vocabulary("c", other))
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert copy.find(pa.array(["b"])).tolist() == [1]


@pytest.mark.parametrize("name", ["v.txt", "v.parquet"])
@pytest.mark.parametrize("values", [["b", "a", "ünï code", " "], [3, -1, 2**62]])
def test_files_are_read_as_written(tmp_path: Path, name: str, values: list[Any]) -> None:
    integers = isinstance(values[0], int)
    write_vocabulary(tmp_path / name, ValueSet(values), pa.array(range(len(values))))
    found = read_vocabulary(tmp_path / name, integers=integers)
    assert found == ValueSet(values)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_parquet_columns_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"a\r\nb\r\nlast")
    assert read_vocabulary(tmp_path / "v.txt") == ValueSet(["a", "b", "last"])
    encoded = pa.chunked_array([pa.array(["x", "y"]), pa.array(["z", ""])]).dictionary_encode()
    pq.write_table(pa.table({"city": encoded}), tmp_path / "v.parquet")
    assert read_vocabulary(tmp_path / "v.parquet", "city") == ValueSet(["x", "y", "z", ""])
    with pytest.raises(DataError, match=r"has no column 'value'; it has 'city'"):
        read_vocabulary(tmp_path / "v.parquet")


@pytest.mark.parametrize(
    ("name", "content", "options", "problem"),
    [
        ("v.txt", None, {}, "is missing"),
        ("v.parquet", None, {}, "is missing"),
        ("v.txt", b"a\n\nb\n", {}, "line 2: it is empty"),
        ("v.txt", b"", {}, "has 0 values"),
        ("v.txt", b"a\nb\n\xff\n", {}, "line 3: no UTF-8"),
        ("v.txt", b"a\nb\na\n", {}, "'a' is there twice, as values 1 and 3"),
        ("v.txt", b"1\nx\n", {"integers": True}, "no 64-bit integer"),
        ("v.parquet", b"no Parquet", {}, "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, Any], problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        read_vocabulary(tmp_path / name, **options)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("value", ["", "two\nlines", "return\r"])
def test_text_files_refuse_what_a_line_cannot_hold(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match="write Parquet"):
        write_vocabulary(tmp_path / "v.txt", ValueSet(["a", value]))
    assert not list(tmp_path.iterdir())
    write_vocabulary(tmp_path / "v.parquet", ValueSet(["a", value]))
    assert read_vocabulary(tmp_path / "v.parquet") == ValueSet(["a", value])


def test_wrong_columns_and_arguments_are_named() -> None:
    strings, integers = Vocabulary("a", ValueSet(["x"])), Vocabulary("a", ValueSet([1]))
    strings.check(pa.schema({"a": pa.dictionary(pa.int32(), pa.string())}))
    integers.check(pa.schema({"a": pa.uint8()}))
    with pytest.raises(DataError, match="has type int64, but strings"):
        strings.check(pa.schema({"a": pa.int64()}))
    with pytest.raises(DataError, match="has type string, but integers"):
        integers.check(pa.schema({"a": pa.string()}))
    for options, problem in (
        ({"values": ["x"]}, "values are list; give a ValueSet"),
        ({"unknown": 0}, "unknown is 0"),
        ({"unknown": "drop"}, "unknown is 'drop'"),
        ({"missing": None}, "missing is None; give 'refuse' or 'skip' or 'own'"),
    ):
        with pytest.raises(ProgramError, match=problem):
            Vocabulary(**{"column": "a", "values": ValueSet(["x"])} | options)
