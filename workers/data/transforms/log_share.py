"""LogShare: how frequent a value is, as the logarithm of its share of the rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.data.transforms.columns import column_of, expect, is_hashable
from workers.data.transforms.value_set import ValueSet
from workers.data.transforms.vocabulary_files import COUNT_COLUMN, VALUE_COLUMN
from workers.errors import DataError

__all__ = ["LogShare", "ValueCounts", "read_counts"]


class ValueCounts:
    """Distinct values and how often each was seen.

    Equal, and written alike, if values and counts are.

    Args:
        values: The values.
        counts: ``[len(values)]``, above 0.

    Raises:
        DataError: There are not as many counts as values, or one is not above 0.
    """

    def __init__(self, values: ValueSet, counts: np.ndarray) -> None:
        self.values = values
        self.counts = np.asarray(counts, np.float64)
        if self.counts.shape != (len(values),) or not (self.counts > 0).all():
            raise DataError(
                f"{values.source}: {len(values)} values need as many counts above 0; got an array "
                f"of the shape {self.counts.shape}"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ValueCounts) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.counts.astype("<f8").tobytes()).hexdigest()[:16]
        return f"ValueCounts({self.values!r}, {digest})"


@dataclass(frozen=True)
class LogShare:
    """The logarithm of the share of the rows that hold the row's value, as a dense number.

    That is the correction for candidates that are drawn from the rows of a batch: frequent ones
    are drawn more often (Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", 2019). A value without a count is taken to have been seen once.

    Nulls are refused.
    """

    column: str
    counts: ValueCounts

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds strings or integers."""
        expect(schema, self.column, is_hashable, "strings or integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """float32 ``[rows]``, at most 0."""
        column, _ = column_of(table, self.column)
        places = self.counts.values.find(column)
        counts = np.where(places >= 0, self.counts.counts[places], 1.0)
        return np.log(counts / self.counts.counts.sum()).astype(np.float32)


def read_counts(path: str | Path) -> ValueCounts:
    """Read a vocabulary file with counts, as `write_vocabulary` writes Parquet.

    Raises:
        DataError: The file is missing or damaged, or has no counts.
    """
    source = f"vocabulary file '{path}'"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    if COUNT_COLUMN not in table.column_names or VALUE_COLUMN not in table.column_names:
        raise DataError(
            f"{source} has no counts: write Parquet with write_vocabulary(path, values, counts)"
        )
    values = ValueSet(table.column(VALUE_COLUMN).combine_chunks(), source)
    return ValueCounts(values, table.column(COUNT_COLUMN).to_numpy())
