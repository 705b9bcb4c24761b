"""Rows that are held out without a copy: each row in one split, the same every time."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.dataset import read_columns, read_row_group
from workers.data.examples import Schema
from workers.data.holdout import Holdout, Part
from workers.data.quarantine import Quarantine
from workers.data.reader import ExampleReader
from workers.data.sources import has_split, open_dataset
from workers.data.splitting import resolve_holdout
from workers.data.transforms import Ids, Number
from workers.errors import DataError

ROWS = 1000
SCHEMA = Schema((("item", Ids("item", ROWS)),), (Number("price"),), "label")


@pytest.fixture
def data(tmp_path):
    """A thousand rows in two files of several row groups."""
    rows = np.arange(ROWS)
    table = pa.table(
        {
            "item": rows,
            "user": [f"u{row % 50}" for row in rows],
            "fold": ["test" if row % 4 == 0 else None if row % 4 == 1 else "train" for row in rows],
            "at": pa.array([dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(r)) for r in rows]),
            "seconds": rows * 7,
            "flag": rows % 10 == 0,
            "price": rows * 1.0,
            "label": rows % 2,
        }
    )
    pq.write_table(table.slice(0, 430), tmp_path / "a.parquet", row_group_size=97)
    pq.write_table(table.slice(430), tmp_path / "b.parquet", row_group_size=200)
    return tmp_path


def items(data, split, holdout):
    dataset = open_dataset(data, split, None, holdout)
    tables = [read_columns(group, ["item"]) for group in dataset.row_groups]
    assert [group.rows for group in dataset.row_groups] == [table.num_rows for table in tables]
    assert [group.first_row for group in dataset.row_groups] == [
        sum(table.num_rows for table in tables[:number]) for number in range(len(tables))
    ]
    assert all(table.column_names == ["item"] for table in tables)
    return np.concatenate([table.column("item").to_numpy() for table in tables])


@pytest.mark.parametrize(
    ("holdout", "want"),
    [
        (Holdout("time", "seconds", start=700 * 7), lambda row: row >= 700),
        (Holdout("time", "at", start="2024-01-31"), lambda row: row >= 720),
        (Holdout("column", "fold", values=("test",)), lambda row: row % 4 == 0),
        (Holdout("column", "flag", values=(True,)), lambda row: row % 10 == 0),
        (Holdout("column", "item", values=(3, 999)), lambda row: (row == 3) | (row == 999)),
    ],
)
def test_rows_are_held_out_by_a_column(data, holdout, want):
    rows = np.arange(ROWS)
    np.testing.assert_array_equal(items(data, "test", holdout), rows[want(rows)])
    np.testing.assert_array_equal(items(data, "train", holdout), rows[~want(rows)])


def test_a_share_of_users_is_held_out_whole(data):
    test = items(data, "test", Holdout("column", "user", share=0.3))
    users = set(test % 50)
    assert 5 < len(users) < 25
    assert len(test) == len(users) * ROWS // 50
    other = items(data, "test", Holdout("column", "user", share=0.3, seed=1))
    assert set(other % 50) != users


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_a_random_share_is_exact_and_known_beforehand(sizes, share, seed):
    first, held_out = 0, 0
    for rows in sizes:
        parts = [
            Part(Holdout("random", share=share, seed=seed), test, rows, first)
            for test in (True, False)
        ]
        places = [part.places(pa.table({})) for part in parts]
        assert [len(found) for found in places] == [part.random_rows() for part in parts]
        assert sorted(np.concatenate(places).tolist()) == list(range(rows))
        held_out += len(places[0])
        first += rows
    assert held_out == int(first * share)


def test_random_rows_come_from_all_over(data):
    test = items(data, "test", Holdout("random", share=0.2))
    assert len(test) == 200
    assert 60 < np.sum(test < 500) < 140
    assert set(test) != set(items(data, "test", Holdout("random", share=0.2, seed=3)))
    np.testing.assert_array_equal(test, items(data, "test", Holdout("random", share=0.2)))


def test_the_moment_is_found_in_the_data(data):
    assert resolve_holdout(str(data), Holdout("time", "seconds", share=0.25)).start == 750 * 7
    found = resolve_holdout(str(data), Holdout("time", "at", share=0.25))
    assert found.start == "2024-02-01T06:00:00"
    assert len(items(data, "test", found)) == 250
    assert resolve_holdout(str(data), found) is found
    with pytest.raises(DataError, match="same value in most rows"):
        resolve_holdout(str(data), Holdout("time", "label", share=0.6))


def test_only_undecided_row_groups_are_read(data, monkeypatch):
    from workers.data import splitting

    read = []
    monkeypatch.setattr(splitting, "read_columns", lambda *a: read.append(a[0]) or read_columns(*a))
    open_dataset(data, "test", ["item"], Holdout("time", "seconds", start=500 * 7))
    assert [(group.name, group.index) for group in read] == [("b.parquet", 0)]


def test_examples_and_errors_have_their_rows(data, tmp_path):
    holdout = Holdout("column", "fold", values=("test",))
    dataset = open_dataset(data, "test", SCHEMA.columns, holdout)
    taken = ExampleReader(dataset, SCHEMA).take(np.array([5, 0, 249]))
    assert taken.ids["item"][:, 0].tolist() == [20, 0, 996]

    bad = pa.table({"item": [0, 1, 2, 9], "fold": ["a", "b", "b", "b"], "price": [1.0] * 4})
    bad = bad.append_column("label", pa.array([0, 1, 7, 1]))
    (tmp_path / "bad").mkdir()
    pq.write_table(bad, tmp_path / "bad" / "x.parquet")
    holdout = Holdout("column", "fold", values=("b",))
    dataset = open_dataset(tmp_path / "bad", "test", None, holdout)
    with pytest.raises(DataError, match="row 2, column 'label'"):
        read_row_group(dataset.row_groups[0], SCHEMA)
    quarantine = Quarantine(tmp_path / "quarantine", 10)
    examples = read_row_group(dataset.row_groups[0], SCHEMA, quarantine)
    assert examples.weights.tolist() == [1, 0, 1]
    (file,) = quarantine.folder.iterdir()
    assert file.name.endswith("-test.jsonl")
    assert json.loads(file.read_text())["row"] == 2


def test_a_moment_that_is_not_a_number_is_never_held_out(tmp_path):
    """Though the statistics of its row group, which pass over it, say that all of it is."""
    moments = [1.0, 2.0, 3.0, 4.0, 10.0, float("nan"), 12.0, 13.0]
    table = pa.table({"item": range(8), "at": moments})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    holdout = resolve_holdout(str(tmp_path), Holdout("time", "at", share=0.4))
    assert items(tmp_path, "test", holdout).tolist() == [4, 6, 7]
    assert items(tmp_path, "train", holdout).tolist() == [0, 1, 2, 3, 5]


def test_nulls_are_held_out_only_where_they_are_named():
    folds = pa.chunked_array([pa.array(["a", None, "b", None])])
    for values, held_out in ((("a",), [0]), (("a", None), [0, 1, 3]), ((None,), [1, 3])):
        mask = Holdout("column", "fold", values=values).held_out(folds)
        assert np.flatnonzero(mask).tolist() == held_out


def test_what_does_not_go_together_is_refused(data, tmp_path):
    with pytest.raises(DataError, match=r"needs holdout.column"):
        Holdout("time")
    with pytest.raises(DataError, match=r"takes no holdout.column"):
        Holdout("random", "user")
    with pytest.raises(DataError, match="share is 1"):
        Holdout("random", share=1.0)
    with pytest.raises(DataError, match="'when' is missing"):
        open_dataset(data, "test", None, Holdout("time", "when", start=1))
    with pytest.raises(DataError, match=r"to hold out by time.*timestamps, dates or numbers"):
        open_dataset(data, "test", None, Holdout("time", "user", start=1))
    with pytest.raises(DataError, match=r"strings or integers"):
        open_dataset(data, "test", None, Holdout("column", "price"))
    with pytest.raises(DataError, match="leaves no row"):
        open_dataset(data, "test", None, Holdout("column", "fold", values=("none",)))
    with pytest.raises(DataError, match=r"start is 'soon', but column 'at' holds timestamp"):
        open_dataset(data, "test", None, Holdout("time", "at", start="soon"))
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "test" / "t.parquet").write_bytes((data / "a.parquet").read_bytes())
    with pytest.raises(DataError, match=r"split of its own: leave out holdout.by=random"):
        has_split(tmp_path, "test", Holdout())
