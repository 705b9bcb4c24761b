"""Columns to ids and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_transforms_hashing import GOLDEN, mix, plain_hash
from workers.data.transforms import (
    Buckets,
    Crossed,
    Hashed,
    Ids,
    IdTransform,
    InvalidValue,
    Lists,
    Number,
    Tags,
    ValueSet,
    Vocabulary,
    nullable_columns,
)
from workers.errors import DataError, ProgramError


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


def test_ids_of_hashed_columns_are_fixed_for_ever() -> None:
    table = pa.table({"a": ["x", "longer than a word"], "b": [1, -1], "t": [["x"], ["y", "z"]]})
    for transform in (Hashed(("a",), 1000, seed=3), Hashed(("a", "b"), 10**6, seed=3)):
        wanted = []
        for row in table.to_pylist():
            mixed = 3
            for column in transform.columns:
                mixed = mix(mixed * GOLDEN + plain_hash(row[column], 3))
            wanted.append(mixed % transform.buckets)
        assert transform.apply(table).ravel().tolist() == wanted
    assert Hashed(("a", "b"), 10**6, seed=3).apply(table).ravel().tolist() == GOLDEN_CROSS
    tags = Tags("t", 1000, valency=2, seed=3).apply(table)
    assert [i for i in tags.ravel().tolist() if i >= 0] == [
        mix(plain_hash(value, 3)) % 1000 for value in "xyz"
    ]


GOLDEN_CROSS = [547031, 855427]

TABLE = pa.table(
    {
        "i": pa.array([3, None, 0, 7, 3, 1], pa.int16()),
        "s": pa.array(["a", "b", None, "", "a", "ü"]),
        "f": pa.array([0.5, float("nan"), None, -2.0, 3.0, 1e9]),
        "l": pa.array([["a", None], None, [], ["b", "c", "d"], ["a"], [""]]),
        "n": pa.array([[1], [2, 3], [], [4, 5, 6], None, [7]], pa.large_list(pa.int32())),
        "x": pa.array([[1, 2], [3, 4], [5, 6], [7, 0], None, [1, None]], pa.list_(pa.int64(), 2)),
    }
)
VALUES = ValueSet(["ü", "a"])


def transforms(missing: Any, lists: Any) -> list[IdTransform]:
    one: list[IdTransform] = [
        Ids("i", 9, missing=missing),
        Hashed(("s",), 50, missing=missing),
        Hashed(("s", "i"), 50, missing=missing),
        Buckets("f", (0.0, 1.0, 100.0), missing=missing),
        Vocabulary("s", VALUES, 2, missing),
    ]
    return [
        *one,
        Crossed((one[0], one[3])),
        Crossed((one[0], one[1], one[4]), 40, seed=1),
        Tags("l", 30, 2, cut="end", missing=lists),
        Lists(Vocabulary("l", VALUES, 2, missing), 2, "start", lists),
        Lists(Ids("n", 9, missing=missing), 2, "end", lists),
        Lists(Hashed(("x",), 20, missing=missing), 2, "refuse", lists),
    ]


@pytest.mark.parametrize("missing", ["skip", "own"])
@pytest.mark.parametrize("place", range(11))
def test_every_form_of_a_column_gives_the_same_ids(missing: str, place: int) -> None:
    """Slices, chunks, dictionaries, large types and no rows at all, each with nulls."""
    transform = transforms(missing, "skip")[place]
    transform.check(TABLE.schema)
    whole = transform.apply(TABLE)
    assert whole.shape == (6, transform.valency)
    assert whole.dtype == np.int32
    assert whole.max() < transform.vocabulary_size
    assert (whole < 0).any() or missing == "own"
    for first in range(7):
        assert np.array_equal(transform.apply(TABLE.slice(first)), whole[first:])
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1, 0), TABLE.slice(1)])
    assert np.array_equal(transform.apply(chunked), whole)
    encoded = TABLE.set_column(1, "s", TABLE.column("s").dictionary_encode())
    encoded = encoded.set_column(3, "l", TABLE.column("l").cast(pa.large_list(pa.large_string())))
    transform.check(encoded.schema)
    assert np.array_equal(transform.apply(encoded), whole)
    assert transform.apply(TABLE.schema.empty_table()).shape == (0, transform.valency)


@pytest.mark.parametrize("place", range(11))
def test_nulls_are_refused_unless_told_otherwise(place: int) -> None:
    strict = transforms("refuse", "refuse")[place]
    assert not nullable_columns(strict)
    with pytest.raises(InvalidValue) as caught:
        strict.apply(TABLE)
    assert TABLE.column(caught.value.column).slice(caught.value.row, 1).to_pylist()[0] in (
        None,
        ["a", None],
        [1, None],
    ) or np.isnan(TABLE.column(caught.value.column)[caught.value.row].as_py())
    lenient = transforms("own", "skip")[place]
    assert nullable_columns(lenient) == set(lenient.columns)


def test_what_nulls_become() -> None:
    table = pa.table({"i": [1, None], "s": ["a", None], "f": [2.0, None]})
    for transform, rows in (
        (Ids("i", 5, missing="own"), 4),
        (Hashed(("s",), 50, missing="own"), 50),
        (Buckets("f", (0.0,), missing="own"), 2),
    ):
        assert transform.vocabulary_size == rows + 1
        assert transform.apply(table)[1, 0] == rows
    with pytest.raises(InvalidValue, match=r"id 4 is outside the vocabulary \[0, 4\)"):
        Ids("i", 5, missing="own").apply(pa.table({"i": [4]}))
    nan = pa.table({"f": [float("nan"), 1.0]})
    assert Buckets("f", (0.0,), missing="skip").apply(nan).ravel().tolist() == [-1, 1]
    with pytest.raises(InvalidValue, match="nan is not a finite"):
        Buckets("f", (0.0,)).apply(nan)
    filled = Number("f", 1.0, 2.0, missing=5.0)
    assert filled.apply(table).tolist() == [0.5, 2.0]
    assert filled.apply(nan).tolist() == [2.0, 0.0]


def test_numbers_are_clipped_before_the_logarithm() -> None:
    table = pa.table({"a": [-3.0, 0.0, np.e - 1, float("inf")]})
    values = Number("a", log=True, least=0.0, most=np.e - 1).apply(table)
    assert np.allclose(values, [0, 0, 1, 1])
    with pytest.raises(InvalidValue, match="inf is not a finite"):
        Number("a", least=0.0).apply(table)


@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 8), max_size=5)), max_size=8),
    st.integers(1, 4),
    st.sampled_from(["end", "start"]),
    st.integers(0, 3),
)
def test_lists_are_cut_at_either_end(
    lists: list[list[int] | None], valency: int, cut: Any, first: int
) -> None:
    array = pa.array(lists, pa.list_(pa.int64()))[first:]
    ids = Lists(Ids("a", 9), valency, cut, "skip").apply(pa.table({"a": array}))
    tags = Tags("a", 100, valency, cut=cut, missing="skip").apply(pa.table({"a": array}))
    for row, tagged, values in zip(ids.tolist(), tags.tolist(), lists[first:], strict=True):
        kept = (values or [])[:valency] if cut == "end" else (values or [])[-valency:]
        assert row == kept + [-1] * (valency - len(kept))
        hashed = [mix(plain_hash(value)) % 100 for value in kept]
        assert tagged == hashed + [-1] * (valency - len(kept))


def test_values_below_null_lists_are_not_seen() -> None:
    below = pa.ListArray.from_arrays(
        pa.array([0, 2, 3]), pa.array([1, 2, 3]), mask=pa.array([True, False])
    )
    ids = Lists(Ids("a", 9), 2, missing="skip").apply(pa.table({"a": below}))
    assert ids.tolist() == [[-1, -1], [3, -1]]


def test_errors_inside_lists_name_the_row() -> None:
    table = pa.table({"a": [[1], [], [2, 30], [4]]})
    with pytest.raises(InvalidValue, match="inside the list: id 30 is outside") as caught:
        Lists(Ids("a", 9), 2).apply(table)
    assert (caught.value.column, caught.value.row) == ("a", 2)
    # What is cut off is not looked at.
    assert Lists(Ids("a", 9), 1, "end").apply(table).ravel().tolist() == [1, -1, 2, 4]
    with pytest.raises(InvalidValue, match="2 values, but the feature's valency is 1") as caught:
        Lists(Ids("a", 9), 1).apply(table)
    assert caught.value.row == 2


def test_exact_crosses_have_an_id_for_every_combination() -> None:
    rows = [(i, j) for i in range(3) for j in range(4)]
    table = pa.table({"a": [i for i, _ in rows], "b": [j for _, j in rows]})
    exact = Crossed((Ids("a", 3), Ids("b", 4)))
    assert exact.vocabulary_size == 12
    assert exact.apply(table).ravel().tolist() == list(range(12))
    hashed = Crossed((Ids("a", 3), Ids("b", 4)), 10**6, seed=5)
    wanted = [mix(mix(5 * GOLDEN + i) * GOLDEN + j) % 10**6 for i, j in rows]
    assert hashed.apply(table).ravel().tolist() == wanted
    mixed = Crossed((Ids("a", 4, missing="skip"), Ids("b", 4)))
    assert mixed.nullable == ("a",)
    assert mixed.apply(pa.table({"a": [None, 1], "b": [2, 3]})).ravel().tolist() == [-1, 7]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Hashed("ab", 5), "give a tuple of names"),  # type: ignore[arg-type]
        (lambda: Hashed((), 5), "give a tuple of names"),
        (lambda: Hashed(("a",), 0), "buckets is 0"),
        (lambda: Hashed(("a",), 2**31), "hash into fewer rows"),
        (lambda: Hashed(("a",), 5, seed=-1), "seed is -1"),
        (lambda: Hashed(("a",), 5, valency=2), "valency is 2"),
        (lambda: Ids("a", 1, missing="own"), "vocabulary_size is 1"),
        (lambda: Ids("a", 5, missing="drop"), "missing is 'drop'"),  # type: ignore[arg-type]
        (lambda: Buckets("a", (1.0, 1.0)), "must ascend"),
        (lambda: Buckets("a", (1.0, float("nan"))), "must be finite"),
        (lambda: Tags("a", 5, 0), "valency is 0"),
        (lambda: Tags("a", 5, 1, cut="middle"), "cut is 'middle'"),  # type: ignore[arg-type]
        (lambda: Tags("a", 5, 1, missing="own"), "missing is 'own'"),  # type: ignore[arg-type]
        (lambda: Lists(Hashed(("a", "b"), 5), 2), "reads 2 columns"),
        (lambda: Lists(Tags("a", 5, 2), 2), "makes 2 ids"),
        (lambda: Crossed((Ids("a", 5),)), "two or more"),
        (lambda: Crossed((Ids("a", 5), Tags("b", 5, 2))), "one id a row"),
        (lambda: Crossed((Ids("a", 2**20), Ids("b", 2**20))), "hash them with buckets="),
        (lambda: Number("a", scale=0.0), "scale is 0"),
        (lambda: Number("a", mean=float("nan")), "mean is nan"),
        (lambda: Number("a", least=2.0, most=1.0), "least 2.0 is above most 1.0"),
    ],
)
def test_transforms_that_cannot_work_are_refused_when_made(make: Any, problem: str) -> None:
    with pytest.raises(ProgramError, match=problem):
        make()


def test_lists_check_their_values() -> None:
    schema = pa.schema({"a": pa.list_(pa.float64()), "b": pa.string()})
    with pytest.raises(DataError, match="has type double, but integers are needed"):
        Lists(Ids("a", 5), 2).check(schema)
    with pytest.raises(DataError, match="has type string, but lists are needed"):
        Lists(Hashed(("b",), 5), 2).check(schema)
