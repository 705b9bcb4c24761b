"""Columns to ids and numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.transforms import Buckets, Hashed, Ids, InvalidValue, Number, Tags, hash_values
from workers.errors import DataError


def test_hashes_are_fixed_for_ever() -> None:
    assert hash_values(pa.array(["", "UA", "ünïcode"])).tolist() == [
        4331143152044847043,
        4753272761970716555,
        12333665204951732753,
    ]
    assert hash_values(pa.array([0, 1, -1])).tolist() == [
        0,
        6238072747940578789,
        13029008266876403067,
    ]


@given(st.lists(st.text(max_size=5), max_size=30))
def test_strings_hash_alike_in_every_arrow_form(values: list[str]) -> None:
    plain = pa.array(values, pa.string())
    expected = hash_values(plain)
    assert np.array_equal(hash_values(plain.dictionary_encode()), expected)
    assert np.array_equal(hash_values(plain.cast(pa.large_string())), expected)
    assert np.array_equal(hash_values(pa.chunked_array([plain, plain])), np.tile(expected, 2))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
def test_integers_hash_alike_in_every_width(values: list[int]) -> None:
    assert np.array_equal(
        hash_values(pa.array(values, pa.int32())), hash_values(pa.array(values, pa.int64()))
    )


def test_crosses_depend_on_order_and_on_every_column() -> None:
    table = pa.table({"a": ["x", "y", "x", "y"], "b": ["x", "x", "y", "y"]})
    cross = Hashed(("a", "b"), 1 << 30).apply(table).ravel()
    assert len(set(cross.tolist())) == 4
    assert not np.array_equal(cross, Hashed(("b", "a"), 1 << 30).apply(table).ravel())
    assert not np.array_equal(cross, Hashed(("a", "b"), 1 << 30, seed=1).apply(table).ravel())


def test_ids_refuse_nulls_and_values_outside_the_vocabulary() -> None:
    transform = Ids("a", 5)
    assert transform.apply(pa.table({"a": [0, 4]})).tolist() == [[0], [4]]
    for values, problem in ([[1, None], "null"], [[1, 5], "id 5 is outside"], [[-1], "id -1"]):
        with pytest.raises(InvalidValue, match=problem) as caught:
            transform.apply(pa.table({"a": values}))
        assert caught.value.row == len(values) - 1


def test_buckets_are_left_closed() -> None:
    ids = Buckets("a", (0.0, 10.0)).apply(pa.table({"a": [-1.0, 0.0, 9.9, 10.0]}))
    assert ids.ravel().tolist() == [0, 1, 1, 2]


def test_tags_are_padded_and_never_cut() -> None:
    table = pa.table({"t": [["a", "b"], [], ["a"]]})
    ids = Tags("t", 1000, valency=3).apply(table)
    assert ids.shape == (3, 3)
    assert (ids >= 0).sum(axis=1).tolist() == [2, 0, 1]
    assert ids[0, 0] == ids[2, 0]
    assert ids[1].tolist() == [-1, -1, -1]
    with pytest.raises(InvalidValue, match="2 values, but the feature's valency is 1"):
        Tags("t", 1000, valency=1).apply(table)
    with pytest.raises(InvalidValue, match="null inside the list"):
        Tags("t", 1000, valency=2).apply(pa.table({"t": [["a"], ["b", None]]}))


def test_tags_of_a_slice_are_the_slice_of_the_tags() -> None:
    table = pa.table({"t": [["a", "b"], [], ["c"], ["d", "e"]]})
    transform = Tags("t", 1000, valency=2)
    assert np.array_equal(transform.apply(table.slice(1, 3)), transform.apply(table)[1:])


def test_numbers_are_standardised() -> None:
    assert Number("a", 2.0, 4.0).apply(pa.table({"a": [2, 6]})).tolist() == [0.0, 1.0]
    logs = Number("a", log=True).apply(pa.table({"a": [0.0, np.e - 1]}))
    assert np.allclose(logs, [0.0, 1.0])
    with pytest.raises(InvalidValue, match="nan is not a finite number"):
        Number("a").apply(pa.table({"a": [1.0, float("nan")]}))
    with pytest.raises(InvalidValue, match="not defined"):
        Number("a", log=True).apply(pa.table({"a": [-1.0]}))


@pytest.mark.parametrize(
    ("transform", "wanted"),
    [
        (Ids("s", 5), "integers"),
        (Hashed(("f",), 5), "strings or integers"),
        (Buckets("s", (1.0,)), "numbers"),
        (Tags("s", 5, 2), "lists of strings or integers"),
        (Number("s"), "numbers"),
    ],
)
def test_wrong_types_are_named(transform: Ids, wanted: str) -> None:
    schema = pa.schema({"s": pa.string(), "f": pa.float64()})
    with pytest.raises(DataError, match=f"has type .*, but {wanted} are needed"):
        transform.check(schema)
    with pytest.raises(DataError, match="is missing; the data has 'x'"):
        transform.check(pa.schema({"x": pa.int32()}))
