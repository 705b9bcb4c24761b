"""The value of a column below which a given share of the rows lie: exact, in bounded memory.

Statistics in the metadata say between which values each row group lies, and that mostly tells where
the one wanted is: data that is written in order of time has it in a row group or two, and no other
is read. Among these, values are counted in ever narrower ranges until those that are left fit into
memory (one more time through the column shrinks a range 65,536-fold), so the value is exact, ties
and all, and the same wherever it is asked for.

Values are compared as whole numbers without sign that are in the same order: *keys*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import batched
from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.dataset import RowGroup, read_columns
from workers.data.tables import read_statistics
from workers.data.transforms.times import is_time, moments_of
from workers.data.waiting_together import MOST_AT_ONCE, in_order

__all__ = ["RankedValue", "few_in_order", "ranked_value"]

KEPT_VALUES = 1 << 22
"""Most values that are held in memory at once, besides those of the row groups that are read just
then (16 of them): 32 MiB."""

BUCKETS_BITS = 16
"""Ranges that are counted at once, as a power of two."""

_SIGN = 1 << 63
_MOST = (1 << 64) - 1


@dataclass(frozen=True)
class RankedValue:
    """A value of a column.

    Attributes:
        value: The value; moments in microseconds since 1970.
        below: Values of the column that are smaller.
        count: All values of it that are neither null nor NaN.
    """

    value: int | float | bool
    below: int
    count: int


@dataclass(frozen=True)
class _Bounds:
    """Between which keys a row group lies, both included, and how many there are."""

    least: int
    greatest: int
    count: int


def ranked_value(
    groups: Sequence[RowGroup], column: str, kind: pa.DataType, share: float
) -> RankedValue | None:
    """The value with ``int(count * share)`` others before it, when all are sorted.

    Row groups are read only where their statistics do not tell; 16 at a time.

    Args:
        groups: The row groups.
        column: Of moments, numbers or booleans. Nulls and NaN count for nothing.
        kind: The column's type.
        share: From 0 to below 1.

    Returns:
        The value; None if there is none.

    Raises:
        DataError: A row group cannot be read.
    """
    bounds = _bounds_of(groups, column, kind)
    count = sum(bound.count for bound in bounds)
    if not count:
        return None
    rank = min(int(count * share), count - 1)
    known = [(g, b) for g, b in zip(groups, bounds, strict=True) if b.count]
    low = _least_with((b.least, b.count) for _, b in known)(rank)
    high = _least_with((b.greatest, b.count) for _, b in known)(rank)
    while True:
        below = sum(b.count for _, b in known if b.greatest < low)
        inside = [g for g, b in known if b.greatest >= low and b.least <= high]
        counted = _count(inside, column, low, high)
        below += counted.below
        key, smaller = counted.at(rank - below)
        if key is not None:
            return RankedValue(_value_of(key, kind), below + smaller, count)
        low, high = counted.range_of(rank - below)


def few_in_order[A, B](function: Callable[[A], B], values: Iterable[A]) -> Iterator[B]:
    """``in_order``, with no more results held than calls are under way at a time."""
    for some in batched(values, MOST_AT_ONCE):
        yield from in_order(function, some)


@dataclass(frozen=True)
class _Counted:
    """What was found in one time through the column.

    Attributes:
        low: First key of the first bucket.
        high: Last key that was looked for.
        shift: Keys of a bucket, as a power of two.
        counts: Keys in each bucket.
        below: Keys seen that are smaller than ``low``.
        kept: All keys from ``low`` to ``high``; None if they were too many.
    """

    low: int
    high: int
    shift: int
    counts: np.ndarray
    below: int
    kept: np.ndarray | None

    def at(self, rank: int) -> tuple[int | None, int]:
        """The key of a rank among those looked for, and how many are smaller, if that is known."""
        if self.kept is not None:
            key = int(np.partition(self.kept, rank)[rank])
            return key, int(np.count_nonzero(self.kept < np.uint64(key)))
        low, high = self.range_of(rank)
        bucket = (low - self.low) >> self.shift
        return (low if low == high else None), int(self.counts[:bucket].sum())

    def range_of(self, rank: int) -> tuple[int, int]:
        """First and last key of the bucket that holds the rank."""
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        low = self.low + (bucket << self.shift)
        return low, min(self.high, low + (1 << self.shift) - 1)


def _count(groups: Sequence[RowGroup], column: str, low: int, high: int) -> _Counted:
    shift = max(0, (high - low).bit_length() - BUCKETS_BITS)
    counts = np.zeros(((high - low) >> shift) + 1, np.int64)
    below, total = 0, 0
    kept: list[np.ndarray] | None = []
    for keys in few_in_order(partial(_keys_in, column=column), groups):
        below += int(np.count_nonzero(keys < np.uint64(low)))
        found = keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]
        buckets = ((found - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
        counts += np.bincount(buckets, minlength=len(counts))
        total += len(found)
        kept = None if kept is None or total > KEPT_VALUES else [*kept, found]
    together = None if kept is None else np.concatenate(kept)
    return _Counted(low, high, shift, counts, below, together)


def _least_with(ends: Iterable[tuple[int, int]]) -> Callable[[int], int]:
    """For a rank, the least end such that more values than that belong to ends up to it."""
    ordered = sorted(ends)

    def found(rank: int) -> int:
        seen = 0
        for end, count in ordered:
            seen += count
            if seen > rank:
                return end
        raise AssertionError(f"rank {rank} is beyond all {seen} values")

    return found


def _bounds_of(groups: Sequence[RowGroup], column: str, kind: pa.DataType) -> list[_Bounds]:
    """Between which keys each row group lies: from its statistics, or else by reading it."""
    told = _told_by_statistics(groups, column, kind)
    for group in groups:
        for name, value in group.constants:
            if name == column:
                keys = _keys(pa.chunked_array([pa.array([value.as_py()], value.type)]))
                of_one = _bounds_of_keys(keys)
                rows = group.rows if of_one.count else 0
                told[str(group.file), group.index] = replace(of_one, count=rows)
    places = [(str(group.file), group.index) for group in groups]
    missing = [group for group, place in zip(groups, places, strict=True) if place not in told]

    def bounds(group: RowGroup) -> _Bounds:
        return _bounds_of_keys(_keys_in(group, column))

    for group, found in zip(missing, few_in_order(bounds, missing), strict=True):
        told[str(group.file), group.index] = found
    return [told[place] for place in places]


def _bounds_of_keys(keys: np.ndarray) -> _Bounds:
    return _Bounds(int(keys.min()), int(keys.max()), len(keys)) if len(keys) else _Bounds(0, 0, 0)


def _told_by_statistics(
    groups: Sequence[RowGroup], column: str, kind: pa.DataType
) -> dict[tuple[str, int], _Bounds]:
    """By file and row group, where the statistics tell of every value."""
    if pa.types.is_floating(kind):
        return {}  # They pass over NaN without counting it.
    rows = {(str(group.file), group.index): group.rows for group in groups}

    def of_file(file: str) -> list[tuple[tuple[str, int], _Bounds]]:
        found = []
        for index, name, statistics in read_statistics(file):
            if name != column or (file, index) not in rows or statistics.null_count is None:
                continue
            count = rows[file, index] - statistics.null_count
            if not count:
                found.append(((file, index), _Bounds(0, 0, 0)))
            elif statistics.has_min_max:
                try:
                    ends = pa.chunked_array([pa.array([statistics.min, statistics.max], kind)])
                    least, greatest = _keys(ends).tolist()
                except (pa.ArrowException, ValueError, TypeError):
                    continue
                # Parts of a microsecond may have been cut off on the way.
                spare = 1 if is_time(kind) else 0
                least, greatest = max(0, least - spare), min(_MOST, greatest + spare)
                found.append(((file, index), _Bounds(least, greatest, count)))
        return found

    files = dict.fromkeys(str(group.file) for group in groups)
    return dict(one for found in few_in_order(of_file, files) for one in found)


def _keys_in(group: RowGroup, column: str) -> np.ndarray:
    return _keys(read_columns(group, {column}).column(column))


def _keys(values: pa.ChunkedArray) -> np.ndarray:
    """Keys of all values but nulls and NaN: uint64 ``[n]``."""
    kind = values.type
    if is_time(kind):
        values = moments_of(values).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    found = values.drop_null().to_numpy()
    if pa.types.is_floating(kind):
        found = found[~np.isnan(found)].astype(np.float64) + 0.0  # -0.0 is no less than 0.0
        bits = found.view(np.uint64)
        negative = bits >> np.uint64(63) == 1
        return np.where(negative, ~bits, bits | np.uint64(_SIGN))
    if found.dtype.kind in "ub":
        return found.astype(np.uint64)
    return found.astype(np.int64).view(np.uint64) ^ np.uint64(_SIGN)


def _value_of(key: int, kind: pa.DataType) -> Any:
    """The value of a key."""
    if pa.types.is_floating(kind):
        bits = key - _SIGN if key >= _SIGN else ~key % (1 << 64)
        return np.uint64(bits).view(np.float64).item()
    if pa.types.is_boolean(kind):
        return bool(key)
    return key if pa.types.is_unsigned_integer(kind) else key - _SIGN
