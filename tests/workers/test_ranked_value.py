"""A value of a rank, found without holding a column: the same as by sorting all of it."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.data import ranked_value as module
from workers.data.dataset import RowGroup, open_dataset, read_columns
from workers.data.holdout import Holdout
from workers.data.ranked_value import few_in_order, ranked_value
from workers.data.splitting import resolve_holdout
from workers.data.waiting_together import MOST_AT_ONCE

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
MOMENTS = st.integers(-(10**16), 4 * 10**16)
KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): INT64 | st.integers(-3, 3),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, (1 << 64) - 1) | st.integers(0, 3),
    pa.uint32(): st.integers(0, (1 << 32) - 1),
    pa.float64(): st.floats() | st.sampled_from([0.0, -0.0, math.nan]),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.timestamp("us"): MOMENTS,
    pa.timestamp("ns"): st.integers(-(10**18), 4 * 10**18),
    pa.timestamp("s", "Europe/Berlin"): st.integers(-(10**9), 10**10),
    pa.date32(): st.integers(-10_000, 40_000),
}


def by_sorting(values: pa.ChunkedArray, share: float) -> tuple[Any, int, int] | None:
    """The same from the whole column, as straight as can be."""
    kind = values.type
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_temporal(kind):
        values = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    known = values.drop_null().to_numpy()
    known = np.sort(known[~np.isnan(known)] if known.dtype.kind == "f" else known)
    if not len(known):
        return None
    value = known[min(int(len(known) * share), len(known) - 1)]
    return value.item(), int(np.sum(known < value)), len(known)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    drawn=st.sampled_from(list(KINDS)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(KINDS[kind] | st.none(), min_size=1))
    ),
    share=st.floats(0, 0.999),
    rows=st.integers(1, 7),
    way=st.sampled_from(["told", "untold", "arrow"]),
    kept=st.sampled_from([0, 3, 1 << 20]),
)
def test_it_is_the_one_that_sorting_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drawn: tuple[pa.DataType, list[Any]],
    share: float,
    rows: int,
    way: str,
    kept: int,
) -> None:
    kind, values = drawn
    monkeypatch.setattr(module, "KEPT_VALUES", kept)
    monkeypatch.setattr(module, "BUCKETS_BITS", 4)
    table = pa.table({"at": pa.array(values, kind)})
    for left in tmp_path.iterdir():
        left.unlink()
    if way == "arrow":
        pyarrow.feather.write_feather(
            table, str(tmp_path / "a.arrow"), compression="uncompressed", chunksize=rows
        )
    else:
        pq.write_table(
            table, tmp_path / "a.parquet", row_group_size=rows, write_statistics=way == "told"
        )
    data = open_dataset(tmp_path, "train")
    found = ranked_value(data.row_groups, "at", data.schema.field("at").type, share)
    told = None if found is None else (found.value, found.below, found.count)
    column = pa.concat_tables([read_columns(group, {"at"}) for group in data.row_groups])
    assert told == by_sorting(column.column("at"), share)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[RowGroup]:
    """The row groups that are read, in order."""
    groups: list[RowGroup] = []
    monkeypatch.setattr(
        module, "read_columns", lambda *given: groups.append(given[0]) or read_columns(*given)
    )
    return groups


def test_data_in_order_of_time_is_read_where_the_moment_lies(
    tmp_path: Path, read: list[RowGroup]
) -> None:
    begin = dt.datetime(2024, 1, 1)
    moments = [begin + dt.timedelta(seconds=second) for second in range(5000)]
    for number in range(10):
        some = pa.table({"at": moments[number * 500 :][:500]})
        pq.write_table(some, tmp_path / f"part-{number}.parquet", row_group_size=100)
    found = resolve_holdout(str(tmp_path), Holdout("time", "at", share=0.25))
    assert found.start == (begin + dt.timedelta(seconds=3750)).isoformat()
    assert len(read) <= 2, "49 of 50 row groups lie before or after it as their statistics tell"


def test_a_partition_tells_without_being_read(tmp_path: Path, read: list[RowGroup]) -> None:
    for day in range(8):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"x": [1] * 10}), tmp_path / f"day={day}" / "a.parquet")
    assert resolve_holdout(str(tmp_path), Holdout("time", "day", share=0.25)).start == 6
    assert len(read) <= 1


def test_a_shuffled_column_is_never_held(
    tmp_path: Path, read: list[RowGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(7).integers(0, 1 << 40, 40_000)
    pq.write_table(pa.table({"at": values}), tmp_path / "a.parquet", row_group_size=1000)
    monkeypatch.setattr(module, "KEPT_VALUES", 500)
    counted: list[Any] = []
    count = module._count
    monkeypatch.setattr(module, "_count", lambda *a: counted.append(count(*a)) or counted[-1])
    start = resolve_holdout(str(tmp_path), Holdout("time", "at", share=0.3)).start
    assert start == np.sort(values)[int(40_000 * (1 - 0.3))]
    assert [one.kept is None for one in counted] == [True, False]
    assert len(counted[1].kept) <= 500
    assert len(read) <= 2 * 40, "twice through the column"


def test_results_do_not_run_ahead() -> None:
    begun: list[int] = []
    taken = 0
    for _ in few_in_order(begun.append, range(100)):
        assert len(begun) - taken <= MOST_AT_ONCE
        taken += 1
    assert taken == 100
