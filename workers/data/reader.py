"""Examples by row id, from row groups that are read and transformed ahead of their use."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset
from workers.data.examples import Examples, Schema
from workers.data.free_memory import free_memory
from workers.data.order import PADDING_ROW
from workers.data.packed import RowLayout
from workers.data.quarantine import Quarantine
from workers.data.row_group_cache import RowGroupCache
from workers.data.sources import read_row_group
from workers.errors import DataError

__all__ = ["CACHE_BYTES", "ExampleReader"]

CACHE_BYTES = 1 << 30
"""Memory of a reader for row groups it has read and transformed. Beside it come one row group that
is waited for, and for each thread the one it decodes.

What is taken next may come from more row groups than that holds, and each of them would have to be
read again and again. Then the memory grows to what they need, up to `MOST_OF_FREE`."""

MOST_OF_FREE = 0.25
"""Share of the free memory that a reader's may grow to."""

MOST_THREADS = 4

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _TimedSchema(Schema):
    """A schema that notes how long transforming took, apart from reading."""

    spent: list[float] = field(default_factory=list, compare=False)

    def apply(self, table: pa.Table) -> Examples:
        started = time.perf_counter()
        try:
            return super().apply(table)
        finally:
            self.spent.append(time.perf_counter() - started)


class ExampleReader:
    """Takes examples by row id; keeps transformed row groups in bounded memory.

    Args:
        dataset: Where the rows are.
        schema: How columns become examples.
        cache_bytes: Memory for row groups: see ``RowGroupCache``; by default ``CACHE_BYTES``, and
            more where that would not do.
        threads: Most row groups read at the same time; by default one a core, at most 4.
        quarantine: Takes bad rows, which then have weight 0; None refuses them.
    """

    def __init__(
        self,
        dataset: Dataset,
        schema: Schema,
        cache_bytes: int | None = None,
        threads: int | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._dataset, self._schema, self._quarantine = dataset, schema, quarantine
        self._threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._first_rows = np.array([group.first_row for group in dataset.row_groups], np.int64)
        self._layout = RowLayout.of(schema)
        self._padding = self._layout.pack(schema.empty(1))
        # Numbers of 16 bits are sorted by radix, several times faster than longer ones.
        self._small = np.uint16 if len(dataset.row_groups) <= 1 << 16 else np.int64
        self._lock = threading.Lock()
        self._seconds = {"read": 0.0, "transform": 0.0, "pick": 0.0}
        self._grows, self._granted = cache_bytes is None, cache_bytes or CACHE_BYTES
        self._cache = RowGroupCache(self._load, self._size_of, self._granted, self._threads)

    def announce(self, *rows: np.ndarray) -> None:
        """Say which row ids are taken next, in order: their row groups are read ahead.

        Args:
            rows: int64 ``[n]``; what was announced before and is not among them counts no more.
        """
        numbers = dict.fromkeys(number for some in rows for number in self._row_groups_of(some))
        needed = sum(map(self._size_of, numbers))
        if self._grows and needed > self._granted:
            self._grow(needed)
        self._cache.announce(numbers)

    def take(self, rows: np.ndarray) -> Examples:
        """The examples with these row ids, in this order; padding rows get weight 0.

        Args:
            rows: int64 ``[n]``.

        Raises:
            DataError: A value cannot be used: with file, row group, row and column.
        """
        started, waited = time.perf_counter(), 0.0
        places = np.flatnonzero(rows != PADDING_ROW)
        found = rows[places]
        groups = (np.searchsorted(self._first_rows, found, side="right") - 1).astype(self._small)
        by_group = np.argsort(groups, kind="stable")
        places, found, groups = places[by_group], found[by_group], groups[by_group]
        # First row group by row group, each of which may have to be waited for; padding comes last.
        picked = np.empty((len(places) + 1, self._layout.words), np.int32)
        picked[-1] = self._padding
        bounds = np.flatnonzero(np.diff(groups)) + 1
        for first, last in pairwise([0, *bounds.tolist(), len(places)] if len(places) else []):
            number = int(groups[first])
            asked = time.perf_counter()
            row_group = self._cache.get(number)
            waited += time.perf_counter() - asked
            offsets = found[first:last] - self._first_rows[number]
            row_group.take(offsets, 0, out=picked[first:last], mode="clip")
        order = np.full(len(rows), len(places))
        order[places] = np.arange(len(places))
        result = self._layout.unpack(picked, order)
        self._count("pick", time.perf_counter() - started - waited)
        return result

    def forget(self) -> None:
        """Read nothing more ahead."""
        self._cache.forget()

    def take_seconds(self) -> dict[str, float]:
        """Busy seconds since the last call: ``read``, ``transform`` and ``pick`` (of rows).

        Several threads read and transform at the same time: their seconds are divided by the
        number of threads, so that a stage of as many seconds as have passed holds up all others.
        """
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken

    def _grow(self, needed: int) -> None:
        """Give the cache memory for so many bytes of row groups, as far as there is."""
        most = self._granted + int(MOST_OF_FREE * free_memory())
        if needed > most:
            self._grows = False
            _LOGGER.warning(
                "the next steps take rows from %.1f GiB of row groups at a time, but there is "
                "memory for %.1f GiB, so most are read again and again; write smaller row groups, "
                "set logical_shards to less, or give a host more memory",
                needed / 2**30,
                most / 2**30,
            )
        self._granted = min(needed, most)
        self._cache.grow(self._granted)

    def _row_groups_of(self, rows: np.ndarray) -> Iterable[int]:
        real = rows[rows != PADDING_ROW]
        numbers = np.searchsorted(self._first_rows, real, side="right") - 1
        return np.unique(numbers).tolist()

    def _size_of(self, number: int) -> int:
        return self._dataset.row_groups[number].rows * self._layout.row_bytes

    def _load(self, number: int) -> np.ndarray:
        """A row group, packed."""
        started = time.perf_counter()
        schema, group = self._schema, self._dataset.row_groups[number]
        timed = _TimedSchema(schema.features, schema.dense, schema.label, schema.positive)
        try:
            examples = read_row_group(group, timed, self._quarantine)
            rows = len(examples.labels)
            if rows != group.rows:  # places beyond them would be taken for the last
                raise DataError(
                    f"file '{group.file}', row group {group.index} has {rows} rows, "
                    f"but had {group.rows} when it was opened; leave files alone during a run"
                )
            packing = time.perf_counter()
            packed = self._layout.pack(examples)
            timed.spent.append(time.perf_counter() - packing)
            return packed
        finally:
            transforming = sum(timed.spent)
            self._count("read", (time.perf_counter() - started - transforming) / self._threads)
            self._count("transform", transforming / self._threads)

    def _count(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds
