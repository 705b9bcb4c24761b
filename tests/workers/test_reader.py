"""Row groups read ahead: bounded memory, any order of calls, failures to whoever waits."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.batches import raw_batches
from workers.data import reader as reader_module
from workers.data.dataset import RowGroup, open_dataset
from workers.data.examples import Examples, Schema
from workers.data.free_memory import free_memory
from workers.data.order import order_of
from workers.data.reader import ExampleReader
from workers.data.row_group_cache import RowGroupCache
from workers.data.transforms import Ids, Number
from workers.errors import DataError

SCHEMA = Schema((("item", Ids("item", 1000)),), (Number("price"),), "label")


def examples(number: int) -> Examples:
    return Examples({}, np.zeros((1, 0)), np.full(1, number, np.float32), np.ones(1, np.float32))


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=8),
    capacity=st.integers(1, 40),
    threads=st.integers(1, 3),
    broken=st.sets(st.integers(0, 7), max_size=2),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_memory_is_bounded_and_what_is_asked_for_comes(
    sizes: list[int], capacity: int, threads: int, broken: set[int], data: st.DataObject
) -> None:
    numbers = st.integers(0, len(sizes) - 1)
    calls = data.draw(st.lists(numbers | st.lists(numbers, max_size=8), max_size=20))
    most, busy = [0], []

    def load(number: int) -> Examples:
        busy.append(number)
        most[0] = max(most[0], cache.nbytes)
        time.sleep(0.0005 * (number % 3))
        busy.remove(number)
        if number in broken:
            raise DataError(f"row group {number} is damaged")
        return examples(number)

    cache = RowGroupCache(load, lambda number: sizes[number], capacity, threads)
    for call in calls:
        if isinstance(call, list):
            cache.announce(call)
        elif call in broken:
            with pytest.raises(DataError, match=f"row group {call} is damaged"):
                cache.get(call)
        else:
            assert cache.get(call).labels.tolist() == [call]
        most[0] = max(most[0], cache.nbytes)
        assert len(busy) <= threads
    assert most[0] <= capacity + max(sizes)
    cache.forget()
    wait_for_quiet()


def wait_for_quiet() -> None:
    """No thread of a cache is left."""
    end = time.monotonic() + 10
    while any(thread.name == "row groups" for thread in threading.enumerate()):
        assert time.monotonic() < end, "threads of the cache are left"
        time.sleep(0.002)


def test_what_is_announced_is_loaded_in_that_order_as_far_as_it_fits() -> None:
    loaded: list[int] = []

    def load(number: int) -> Examples:
        loaded.append(number)
        return examples(number)

    cache = RowGroupCache(load, lambda _: 10, 30, threads=1)
    cache.announce([4, 2, 9, 7])
    wait_for_quiet()
    assert loaded == [4, 2, 9]
    cache.announce([2, 9, 7])
    wait_for_quiet()
    assert loaded == [4, 2, 9, 7]
    for number in (2, 9, 7):
        cache.get(number)
    assert loaded == [4, 2, 9, 7]


def test_a_failure_comes_to_all_who_wait() -> None:
    go = threading.Event()

    def load(number: int) -> Examples:
        go.wait(10)
        raise OSError("the storage is away")

    cache = RowGroupCache(load, lambda _: 10, 30, threads=1)
    failed: list[OSError] = []

    def get() -> None:
        with pytest.raises(OSError, match="away") as raised:
            cache.get(0)
        failed.append(raised.value)

    threads = [threading.Thread(target=get, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while cache._awaited[0] < 2 and time.monotonic() < end:
        time.sleep(0.002)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(failed) == 2


def test_a_failure_that_passes_is_tried_again() -> None:
    tried: list[int] = []

    def load(number: int) -> Examples:
        tried.append(number)
        if len(tried) == 1:
            raise OSError("the storage is away")
        return examples(number)

    cache = RowGroupCache(load, lambda _: 1, 10, threads=2)
    cache.announce([3])
    wait_for_quiet()
    assert cache.get(3).labels.tolist() == [3]
    assert tried == [3, 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    numbers = np.arange(600)
    table = pa.table({"item": numbers, "price": numbers / 2.0, "label": (numbers % 2 == 0)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=50)
    return tmp_path


@pytest.mark.parametrize("cache_bytes", [1, 3000, 1 << 20])
def test_batches_are_the_same_however_little_memory_there_is(
    folder: Path, cache_bytes: int
) -> None:
    data = open_dataset(folder, "train")
    order = order_of([50] * 12, batch_size=16, seed=1, logical_shards=4, shuffle_window=20)
    reader = ExampleReader(data, SCHEMA, cache_bytes, threads=2)
    seen = []
    for raw in raw_batches(order, reader, (0, 16), 0, order.steps_per_epoch):
        real = raw.rows >= 0
        assert np.array_equal(raw.examples.ids["item"][real, 0], raw.rows[real])
        assert np.array_equal(raw.examples.weights, real)
        seen += raw.rows[real].tolist()
    assert sorted(seen) == list(range(600))
    seconds = reader.take_seconds()
    assert set(seconds) == {"read", "transform", "pick"}
    assert min(seconds.values()) > 0
    assert set(reader.take_seconds().values()) == {0.0}
    wait_for_quiet()


def test_the_row_groups_of_the_next_steps_are_read_before_they_are_taken(folder: Path) -> None:
    reader = ExampleReader(open_dataset(folder, "train"), SCHEMA, threads=1)
    reader.announce(np.array([-1, 0, 120, 130]), np.array([560]))
    wait_for_quiet()
    (folder / "a.parquet").unlink()
    assert reader.take(np.array([560, 149, 49])).ids["item"].ravel().tolist() == [560, 149, 49]
    with pytest.raises(DataError, match="row group 4 is missing"):
        reader.take(np.array([200]))


@pytest.mark.parametrize("free", [1 << 30, 0])
def test_memory_grows_to_the_row_groups_of_the_next_steps_as_far_as_there_is(
    folder: Path, free: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loads: list[int] = []

    def counted(group: RowGroup, *rest: Any) -> Examples:
        loads.append(group.index)
        return read(group, *rest)

    read = reader_module.read_row_group
    monkeypatch.setattr(reader_module, "read_row_group", counted)
    monkeypatch.setattr(reader_module, "free_memory", lambda: free)
    monkeypatch.setattr(reader_module, "CACHE_BYTES", 2 * 50 * 16)  # two row groups
    reader = ExampleReader(open_dataset(folder, "train"), SCHEMA, threads=1)
    for _ in range(3):
        rows = np.arange(0, 600, 25)
        reader.announce(rows)
        assert reader.take(rows).ids["item"].ravel().tolist() == rows.tolist()
    wait_for_quiet()
    if free:
        assert sorted(loads) == list(range(12))
        assert not caplog.records
    else:
        assert len(loads) > 30
        assert len(caplog.records) == 1
        assert "logical_shards" in caplog.text


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    machine = free_memory(tmp_path)
    assert machine > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert free_memory(tmp_path) > 5000
    (tmp_path / "memory.max").write_text("9000\n")
    assert free_memory(tmp_path) == 4000
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 700\n")
    assert free_memory(tmp_path) == 4700
    older = tmp_path / "memory"
    older.mkdir()
    (older / "memory.limit_in_bytes").write_text("1000\n")
    (older / "memory.usage_in_bytes").write_text("2000\n")
    assert free_memory(tmp_path) == 0
