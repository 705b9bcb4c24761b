"""ValueCounter: how often each value occurs, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from workers.data.transforms.columns import check_whole, is_hashable, is_list, is_text
from workers.data.transforms.value_set import ValueSet
from workers.data.transforms.vocabulary_files import COUNT_COLUMN, VALUE_COLUMN
from workers.errors import DataError

__all__ = ["ValueCounter"]


class ValueCounter:
    """Counts values chunk by chunk; exactly, while there are at most ``capacity`` distinct ones.

    Beyond that it keeps the most frequent, as Misra and Gries ("Finding repeated elements", 1982)
    do, in the form for merging of Agarwal et al. ("Mergeable summaries", 2012): whenever there are
    too many values, the count of the first one too many is taken off all, and what falls to 0 is
    forgotten. Then a value seen c times is counted at least ``c - error`` and at most c times, and
    ``error`` is at most total / (capacity + 1).

    Memory: about 2 * capacity values and 8 bytes each, and the chunk.

    Args:
        capacity: Most distinct values to keep.
        name: Of the column, for errors.
    """

    def __init__(self, capacity: int = 10_000_000, name: str = "values") -> None:
        check_whole(f"ValueCounter of '{name}'", "capacity", capacity)
        self.capacity = capacity
        self.name = name
        self.total = 0
        """Values seen, without nulls."""
        self.nulls = 0
        """Nulls seen."""
        self.error = 0
        """Most that a count may be too small by; 0 means that all are exact."""
        self._kept: pa.Table | None = None
        self._pending: list[pa.Table] = []

    def add(self, values: pa.Array | pa.ChunkedArray) -> None:
        """Count the values of a chunk; those of its lists, if it has lists.

        Raises:
            DataError: They are neither strings nor integers, or not of the type of those before.
        """
        for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
            while is_list(chunk.type):
                self.nulls += chunk.null_count
                chunk = chunk.flatten()
            if not is_hashable(chunk.type):
                raise DataError(
                    f"'{self.name}' has values of type {chunk.type}; give strings or integers"
                )
            self._add(chunk)
        if sum(table.num_rows for table in self._pending) >= self.capacity:
            self._merge()

    def _add(self, chunk: pa.Array) -> None:
        counted: Any = chunk.value_counts()
        found = counted.field("values")
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        strings = is_text(found.type)
        try:
            found = found.cast(pa.large_string() if strings else pa.int64())
        except pa.ArrowException as error:
            raise DataError(f"'{self.name}' cannot be counted: {error}") from error
        before = self._kept if self._kept is not None else (self._pending or [None])[0]
        if before is not None and before.column(0).type != found.type:
            raise DataError(f"'{self.name}' holds {found.type} after {before.column(0).type}")
        table = pa.table([found, counted.field("counts")], [VALUE_COLUMN, COUNT_COLUMN])
        valid = table.filter(found.is_valid())
        seen = int(valid.column(COUNT_COLUMN).to_numpy().sum())
        self.total += seen
        self.nulls += len(chunk) - seen
        self._pending.append(valid)

    def _merge(self) -> None:
        tables = [*([] if self._kept is None else [self._kept]), *self._pending]
        self._pending = []
        if not tables:
            return
        # One thread, so that the order is the same every time.
        grouped = pa.concat_tables(tables).group_by(VALUE_COLUMN, use_threads=False)
        kept = grouped.aggregate([(COUNT_COLUMN, "sum")])
        kept = kept.rename_columns([VALUE_COLUMN, COUNT_COLUMN])
        if kept.num_rows > self.capacity:
            counts = kept.column(COUNT_COLUMN).to_numpy()
            less = int(np.partition(counts, -self.capacity - 1)[-self.capacity - 1])
            self.error += less
            kept = pa.table([kept.column(0), pa.array(counts - less)], kept.column_names)
            kept = kept.filter(pa.array(counts > less))
        self._kept = kept

    def counts(self) -> pa.Table:
        """Columns ``value`` and ``count``: the most frequent first, then in the values' order."""
        self._merge()
        if self._kept is None:
            raise DataError(f"'{self.name}': no value has been counted")
        return self._kept.sort_by([(COUNT_COLUMN, "descending"), (VALUE_COLUMN, "ascending")])

    def frequent(self, *, most: int | None = None, least_count: int = 1) -> pa.Table:
        """The rows of `counts` that make a vocabulary.

        Args:
            most: Most values; all by default.
            least_count: Values counted less often are left out. Counts that are too small by up to
                ``error`` may leave out a value that was seen just often enough, but never let in
                one that was not.

        Raises:
            DataError: No value is left.
        """
        counts = self.counts()
        often = counts.column(COUNT_COLUMN).to_numpy() >= least_count
        counts = counts.filter(pa.array(often))
        counts = counts if most is None else counts.slice(0, most)
        if not counts.num_rows:
            raise DataError(
                f"'{self.name}': no value was counted {least_count} times; lower least_count"
            )
        return counts

    def vocabulary(self, *, most: int | None = None, least_count: int = 1) -> ValueSet:
        """`frequent` as the values of a `Vocabulary`."""
        values = self.frequent(most=most, least_count=least_count).column(VALUE_COLUMN)
        return ValueSet(values.combine_chunks(), f"vocabulary of '{self.name}'")
