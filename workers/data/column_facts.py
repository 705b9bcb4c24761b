"""Facts about one column: from the metadata of all files, and from a sample of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.dataset import Dataset
from workers.data.evidence import Counts, auc_by_groups, count_groups, groups_of, quantile_groups
from workers.data.tables import read_statistics
from workers.data.transforms.columns import is_hashable, is_list, is_number, null_mask, plain

__all__ = ["ColumnFacts", "Known", "known_of"]

EVIDENCE_ROWS = 100_000
"""Most rows that a column is compared with the label in."""


@dataclass(frozen=True)
class Known:
    """What the metadata of all files says of a column; None where a file does not tell.

    Attributes:
        nulls: How many.
        rows: Of how many rows, those that are held out among them.
        least: Smallest value.
        most: Largest value.
    """

    nulls: int | None = None
    rows: int | None = None
    least: Any = None
    most: Any = None


def known_of(datasets: Iterable[Dataset]) -> Mapping[str, Known]:
    """What the metadata says, by column; lists and other nested columns are not among them."""
    found: dict[str, list[Any]] = {}
    files = {str(g.file) for data in datasets for g in data.row_groups}
    groups = {(str(g.file), g.index) for data in datasets for g in data.row_groups}
    for file in sorted(files):
        for index, name, statistics in read_statistics(file):
            if (file, index) in groups:
                found.setdefault(name, []).append(statistics)
    return {name: _merged(parts, len(groups)) for name, parts in found.items()}


def _merged(parts: list[Any], groups: int) -> Known:
    if len(parts) != groups:
        return Known()
    counted = all(part.has_null_count for part in parts)
    nulls = sum(part.null_count for part in parts) if counted else None
    rows = None if nulls is None else nulls + sum(part.num_values for part in parts)
    ends = [part for part in parts if part.has_min_max]
    # A row group of nothing but nulls has no ends, and needs none.
    if len(ends) < sum(part.num_values > 0 for part in parts) or not ends:
        return Known(nulls, rows)
    return Known(nulls, rows, min(part.min for part in ends), max(part.max for part in ends))


@dataclass(frozen=True)
class ColumnFacts:
    """A column of a sample, and what is known of the whole.

    Attributes:
        name: Of the column.
        values: The sample's.
        rows: Rows of the whole data.
        known: From the metadata.
        labels: float32 ``[n]``, 0 or 1, for the rows of the sample; None without a label.
        judged: Values of a sample of the rows that are evaluated on; None without such rows.
    """

    name: str
    values: pa.ChunkedArray
    rows: int
    known: Known
    labels: np.ndarray | None
    judged: pa.ChunkedArray | None = None

    @property
    def type(self) -> pa.DataType:
        """Of the values; of a dictionary's, if they are encoded."""
        return plain(self.values.type)

    @cached_property
    def null_share(self) -> float:
        """Share of nulls (and NaN), of all rows where the metadata tells, else of the sample."""
        if pa.types.is_floating(self.type):
            absent = int(np.isnan(self.numbers).sum())
        elif self.known.nulls is not None:
            return self.known.nulls / max(self.known.rows or self.rows, self.known.nulls, 1)
        else:
            absent = int(null_mask(self.values).sum())
        return absent / max(len(self.values), 1)

    @property
    def may_have_nulls(self) -> bool:
        """Unless the metadata says that there are none."""
        return pa.types.is_floating(self.type) or self.known.nulls != 0

    @cached_property
    def grouped(self) -> tuple[np.ndarray, pa.Array]:
        """Rows by value; of lists, the values of all of them: see `groups_of`."""
        values = self.values
        while is_list(values.type):
            values = pa.chunked_array([chunk.flatten() for chunk in values.chunks])
        return groups_of(values)

    @cached_property
    def counts(self) -> Counts:
        """How often values occur."""
        groups = self.grouped[0]
        rows = self.rows
        if is_list(self.values.type):
            rows = int(self.rows * len(groups) / max(len(self.values), 1))
        return count_groups(groups, rows)

    @cached_property
    def numbers(self) -> np.ndarray:
        """float64 ``[n]``, NaN for nulls."""
        values = self.values.cast(self.type)
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        return values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()

    @cached_property
    def by_value(self) -> float:
        """What the exact value tells of the label: see `auc_by_groups`; NaN without one."""
        if self.labels is None or not (is_hashable(self.type) or is_number(self.type)):
            return float("nan")
        return auc_by_groups(self.grouped[0][self._some], self.labels[self._some])

    @cached_property
    def by_range(self) -> float:
        """The same of 32 ranges of about as many rows each; NaN for what is no number."""
        if self.labels is None or not is_number(self.type):
            return float("nan")
        groups = quantile_groups(self.numbers[self._some])
        return auc_by_groups(groups, self.labels[self._some])

    @property
    def _some(self) -> slice:
        """Rows that the label is compared with: sorting is what takes the time."""
        return slice(None, None, -(-len(self.values) // EVIDENCE_ROWS))

    @cached_property
    def strange(self) -> float:
        """Share of the rows to evaluate on whose value is not in the sample; 0 if not known.

        Less the same share for a tenth of the sample and its rest: a sample has not everything.
        """
        if self.judged is None or is_list(self.values.type):
            return 0.0
        compute: Any = pc
        seen = self.grouped[1]
        judged = self.judged.cast(plain(self.judged.type)).drop_null()
        if not len(judged):
            return 0.0
        strange = 1 - float(np.mean(compute.is_in(judged, seen).to_numpy()))
        groups = self.grouped[0]
        rest = np.ones(len(groups), bool)
        rest[::10] = False
        expected = float(np.mean(~np.isin(groups[::10], groups[rest])))
        return max(0.0, strange - expected)

    @property
    def alone(self) -> float:
        """The better of both; NaN without a label."""
        found = [auc for auc in (self.by_value, self.by_range) if auc == auc]
        return max(found, default=float("nan"))
