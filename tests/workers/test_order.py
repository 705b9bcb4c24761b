"""The order of rows: every row once an epoch, whatever the number of hosts, fixed by the seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.order import PADDING_ROW, RowOrder, default_logical_shards, order_of
from workers.errors import DataError

orders = st.builds(
    lambda groups, share, shards, seed, window: RowOrder(
        tuple(groups), share * shards, seed, shards, window
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 16),
    st.integers(0, 5),
    st.integers(1, 50),
)


@given(orders, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_each_row_comes_exactly_once_an_epoch(order: RowOrder, epoch: int) -> None:
    rows = order.batches(epoch, 0, order.steps_per_epoch)
    assert rows.shape == (order.steps_per_epoch, order.batch_size)
    real = rows[rows != PADDING_ROW]
    assert sorted(real.tolist()) == list(range(order.rows))
    counts = (rows != PADDING_ROW).sum(axis=1)
    assert counts.min() > 0, "a step without a single row"
    assert counts.tolist() == [order.examples_of(step) for step in range(order.steps_per_epoch)]


@given(orders, st.data())
@settings(max_examples=100, deadline=None)
def test_a_batch_is_the_same_however_it_is_cut(order: RowOrder, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, order.steps_per_epoch - 1))
    whole = order.batches(1, 0, order.steps_per_epoch)[step]
    cuts = data.draw(st.lists(st.integers(0, order.batch_size), max_size=4))
    bounds = [0, *sorted(cuts), order.batch_size]
    parts = [order.batches(1, step, step + 1, slots)[0] for slots in pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_seeds_and_epochs_shuffle_differently() -> None:
    order = RowOrder((100, 100), 20, 0, 4, 25)
    other = RowOrder((100, 100), 20, 1, 4, 25)
    assert not np.array_equal(order.batches(0, 0, 10), order.batches(1, 0, 10))
    assert not np.array_equal(order.batches(0, 0, 10), other.batches(0, 0, 10))


def test_golden_order() -> None:
    """Data already trained on must stay where it was: change this only with a new format."""
    order = RowOrder((7, 5, 4), 4, 3, 2, 5)
    assert order.batches(0, 0, order.steps_per_epoch).tolist() == [
        [0, 1, 12, 11],
        [2, 4, 10, 8],
        [3, 5, 9, 14],
        [7, 6, 15, 13],
    ]
    assert order.batches(2, 0, order.steps_per_epoch).tolist() == [
        [14, 15, 3, 2],
        [7, 13, 0, 1],
        [12, 9, 11, 5],
        [10, 8, 4, 6],
    ]
    padded = RowOrder((7, 5, 3), 4, 3, 2, 5)
    assert padded.batches(2, 0, padded.steps_per_epoch).tolist() == [
        [14, 7, 3, 2],
        [8, 13, 0, 1],
        [12, 10, 11, 5],
        [9, -1, 4, 6],
    ]


def test_row_groups_come_in_another_order_every_epoch() -> None:
    """Told apart from the shuffling of rows by windows of one row."""
    order = RowOrder((10,) * 8, 10, 0, 1, 1)
    epochs = [order.batches(epoch, 0, order.steps_per_epoch) for epoch in range(4)]
    for rows in epochs:
        assert (rows // 10 == rows[:, :1] // 10).all(), "a row group after the other"
        assert (np.diff(rows, axis=1) == 1).all()
    assert len({tuple(rows[:, 0]) for rows in epochs}) == 4


def test_rows_are_shuffled_within_windows_of_a_shard_afresh_every_epoch() -> None:
    order = RowOrder((64,), 8, 0, 2, 8)
    first, second = (order.batches(epoch, 0, order.steps_per_epoch) for epoch in (0, 1))
    for window in range(4):
        for shard in range(2):
            begin = 32 * shard + 8 * window
            place = np.s_[2 * window : 2 * window + 2, 4 * shard : 4 * shard + 4]
            assert sorted(first[place].flat) == list(range(begin, begin + 8))
            assert list(first[place].flat) != list(range(begin, begin + 8))
            assert list(first[place].flat) != list(second[place].flat)


def test_default_logical_shards_is_the_largest_divisor_up_to_256() -> None:
    assert [default_logical_shards(n) for n in (1, 7, 256, 1000, 1536, 2048, 1021)] == [
        1, 7, 256, 250, 256, 256, 1,
    ]  # fmt: skip


def test_shards_must_divide_the_batch() -> None:
    with pytest.raises(DataError, match="must divide batch_size 10; the largest that does is 10"):
        order_of([10], batch_size=10, seed=0, logical_shards=3, shuffle_window=8)
