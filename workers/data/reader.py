"""Examples by row id, from row groups that are read and transformed ahead of their use."""

from __future__ import annotations

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
from workers.data.order import PADDING_ROW
from workers.data.quarantine import Quarantine
from workers.data.row_group_cache import RowGroupCache
from workers.data.sources import read_row_group

__all__ = ["CACHE_BYTES", "ExampleReader"]

CACHE_BYTES = 1 << 30
"""Memory of a reader for row groups it has read and transformed. Beside it come one row group that
is waited for, and for each thread the one it decodes."""

MOST_THREADS = 4


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
        cache_bytes: Memory for row groups: see ``RowGroupCache``.
        threads: Most row groups read at the same time; by default one a core, at most 4.
        quarantine: Takes bad rows, which then have weight 0; None refuses them.
    """

    def __init__(
        self,
        dataset: Dataset,
        schema: Schema,
        cache_bytes: int = CACHE_BYTES,
        threads: int | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._dataset, self._schema, self._quarantine = dataset, schema, quarantine
        self._threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self._first_rows = np.array([group.first_row for group in dataset.row_groups], np.int64)
        self._row_bytes = schema.empty(1).nbytes
        self._lock = threading.Lock()
        self._seconds = {"read": 0.0, "transform": 0.0, "pick": 0.0}
        self._cache = RowGroupCache(self._load, self._size_of, cache_bytes, self._threads)

    def announce(self, *rows: np.ndarray) -> None:
        """Say which row ids are taken next, in order: their row groups are read ahead.

        Args:
            rows: int64 ``[n]``; what was announced before and is not among them counts no more.
        """
        self._cache.announce(number for some in rows for number in self._row_groups_of(some))

    def take(self, rows: np.ndarray) -> Examples:
        """The examples with these row ids, in this order; padding rows get weight 0.

        Args:
            rows: int64 ``[n]``.

        Raises:
            DataError: A value cannot be used: with file, row group, row and column.
        """
        started, waited = time.perf_counter(), 0.0
        result = self._schema.empty(len(rows))
        places = np.flatnonzero(rows != PADDING_ROW)
        group_of = np.searchsorted(self._first_rows, rows[places], side="right") - 1
        by_group = np.argsort(group_of, kind="stable")
        places, group_of = places[by_group], group_of[by_group]
        bounds = np.flatnonzero(np.diff(group_of, prepend=-1, append=-1))
        for first, last in pairwise(bounds.tolist()):
            number = int(group_of[first])
            targets = places[first:last]
            offsets = rows[targets] - self._first_rows[number]
            asked = time.perf_counter()
            row_group = self._cache.get(number)
            waited += time.perf_counter() - asked
            result.put(targets, row_group, offsets)
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

    def _row_groups_of(self, rows: np.ndarray) -> Iterable[int]:
        real = rows[rows != PADDING_ROW]
        numbers = np.searchsorted(self._first_rows, real, side="right") - 1
        return np.unique(numbers).tolist()

    def _size_of(self, number: int) -> int:
        return self._dataset.row_groups[number].rows * self._row_bytes

    def _load(self, number: int) -> Examples:
        started = time.perf_counter()
        schema = self._schema
        timed = _TimedSchema(schema.features, schema.dense, schema.label)
        try:
            return read_row_group(self._dataset.row_groups[number], timed, self._quarantine)
        finally:
            transforming = sum(timed.spent)
            self._count("read", (time.perf_counter() - started - transforming) / self._threads)
            self._count("transform", transforming / self._threads)

    def _count(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds
