"""Transforms that own data needs: moments, separated strings, booleans, shares; and fields."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.declared import feature_transform, number_transform
from workers.data.examples import Schema
from workers.data.transforms import (
    Buckets,
    Hashed,
    Ids,
    Lists,
    LogShare,
    Number,
    Separated,
    Tags,
    TimePart,
    ValueCounts,
    ValueSet,
    Vocabulary,
    read_counts,
    write_vocabulary,
)
from workers.errors import DataError, ProgramError

MOMENT = dt.datetime(2024, 2, 29, 23, 59)  # a Thursday
PARTS = {"hour": 23, "weekday": 3, "day": 29, "month": 2}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parts_of_a_moment(part, unit):
    count = (
        int(MOMENT.replace(tzinfo=dt.UTC).timestamp())
        * 10 ** {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    )
    moments = pa.chunked_array([[MOMENT, None]], pa.timestamp(unit))
    zoned = pa.chunked_array([pa.array([count, None], pa.timestamp(unit, "America/New_York"))])
    integers = pa.chunked_array([[count, None]], pa.int64())
    size = TimePart("t", part).vocabulary_size
    for column in (moments, zoned, integers):
        transform = TimePart("t", part, unit, missing="own")
        transform.check(pa.schema([("t", column.type)]))
        assert transform.apply(pa.table({"t": column})).tolist() == [[PARTS[part]], [size]]
    date = pa.table({"t": pa.array([MOMENT.date()])})
    assert TimePart("t", part).apply(date)[0, 0] == (0 if part == "hour" else PARTS[part])
    with pytest.raises(DataError, match="null"):
        TimePart("t", part, unit).apply(pa.table({"t": moments}))
    with pytest.raises(DataError, match="timestamps, dates or integers"):
        TimePart("t", part).check(pa.schema([("t", pa.float32())]))
    with pytest.raises(ProgramError, match="part is 'year'"):
        TimePart("t", "year")  # pyright: ignore


@settings(max_examples=60)
@given(st.lists(st.one_of(st.none(), st.text("ab|", max_size=8)), min_size=1, max_size=12))
def test_separated_strings_are_lists(words):
    lists = [None if w is None else [part for part in w.split("|") if part] for w in words]
    inner = Lists(Hashed(("x",), 50), 8, missing="skip")
    want = inner.apply(pa.table({"x": pa.array(lists, pa.list_(pa.string()))}))
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        half = len(words) // 2
        pieces = [pa.array(words[:half], pa.string()), pa.array(words[half:], pa.string())]
        column = pa.chunked_array(pieces, pa.string()).cast(kind)
        got = Separated("|", inner).apply(pa.table({"x": column}))
        np.testing.assert_array_equal(got, want)
    tags = Separated("|", Tags("x", 50, 8, missing="skip"))
    assert (tags.valency, tags.vocabulary_size, tags.nullable) == (8, 50, ("x",))
    with pytest.raises(DataError, match="strings are needed"):
        tags.check(pa.schema([("x", pa.int32())]))
    with pytest.raises(ProgramError, match="separator is empty"):
        Separated("", inner)


def test_booleans_are_numbers():
    table = pa.table({"b": [True, None, False]})
    assert Number("b", missing=0.5).apply(table).tolist() == [1, 0.5, 0]
    assert Buckets("b", (0.5,), missing="own").apply(table)[:, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "positive", "want"),
    [
        ([1, 5, 4], 4, [0, 1, 1]),
        ([0.5, 2.5, -1.0], 2.5, [0, 1, 0]),
        (["no", "yes", "no"], "yes", [0, 1, 0]),
        ([True, False, True], None, [1, 0, 1]),
    ],
)
def test_labels_of_other_kinds(labels, positive, want):
    schema = Schema((("x", Ids("x", 9)),), (), "y", positive)
    table = pa.table({"x": [1, 2, 3], "y": labels})
    schema.check(table.schema)
    assert schema.apply(table).labels.tolist() == want
    wrong = Schema((("x", Ids("x", 9)),), (), "y", 1.0 if isinstance(positive, str) else "yes")
    with pytest.raises(DataError, match="label: column 'y'"):
        wrong.check(table.schema)


def test_shares_of_rows(tmp_path):
    counts = ValueCounts(ValueSet(["a", "b"]), np.array([3, 1]))
    got = LogShare("x", counts).apply(pa.table({"x": ["b", "new", "a"]}))
    assert got.tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 4), math.log(3 / 4)])
    write_vocabulary(tmp_path / "v.parquet", counts.values, pa.array([3, 1]))
    assert read_counts(tmp_path / "v.parquet") == counts
    assert read_counts(tmp_path / "v.parquet") != ValueCounts(counts.values, np.array([3, 2]))
    write_vocabulary(tmp_path / "w.parquet", counts.values)
    with pytest.raises(DataError, match="has no counts"):
        read_counts(tmp_path / "w.parquet")
    with pytest.raises(DataError, match="as many counts above 0"):
        ValueCounts(counts.values, np.array([3, 0]))


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"kind": "ids", "rows": 5}, Ids("x", 5)),
        ({"kind": "ids", "rows": 5, "missing": "own"}, Ids("x", 6, missing="own")),
        ({"kind": "hashed", "rows": 64, "column": "y"}, Hashed(("y",), 64)),
        ({"kind": "hashed", "rows": 64, "columns": ["a", "b"]}, Hashed(("a", "b"), 64)),
        (
            {"kind": "vocabulary", "values": [3, 7], "unknown": 2},
            Vocabulary("x", ValueSet([3, 7]), unknown=2),
        ),
        ({"kind": "ranges", "boundaries": [1, 2.5]}, Buckets("x", (1.0, 2.5))),
        ({"kind": "time", "part": "hour", "unit": "ms"}, TimePart("x", "hour", "ms")),
        (
            {"kind": "list", "of": "hashed", "rows": 64, "most": 3, "cut": "start"},
            Lists(Hashed(("x",), 64, missing="skip"), 3, "start", "skip"),
        ),
        (
            {"kind": "list", "of": "vocabulary", "values": ["a"], "most": 2, "separator": "|"},
            Separated(
                "|", Lists(Vocabulary("x", ValueSet(["a"]), missing="skip"), 2, "end", "skip")
            ),
        ),
    ],
)
def test_fields_stand_for_transforms(fields, want):
    assert feature_transform("x", fields) == want


def test_numbers_have_fields_too():
    assert number_transform("x", {"mean": 2, "log": True}) == Number("x", 2, log=True)
    assert number_transform("x", {"column": "y"}) == Number("y")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rows": 5}, "feature 'x': kind is None; give ids or vocabulary"),
        ({"kind": "ids"}, "missing 1 required field|missing 1 required keyword-only"),
        ({"kind": "ids", "rows": 5, "row": 1}, "unexpected field 'row'"),
        ({"kind": "ids", "rows": 0}, "feature 'x'.*vocabulary_size is 0"),
        ({"kind": "vocabulary"}, "either values or file"),
        ({"kind": "vocabulary", "file": "nowhere"}, "feature 'x': vocabulary file 'nowhere'"),
        ({"kind": "list", "of": "lists", "most": 2}, "of is 'lists'"),
    ],
)
def test_wrong_fields_are_named(fields, said):
    with pytest.raises(ProgramError, match=said):
        feature_transform("x", fields)


def test_wrong_fields_of_numbers_are_named():
    with pytest.raises(ProgramError, match=r"number 'x': unknown field 'men' \(did you mean 'mean"):
        number_transform("x", {"men": 2})
