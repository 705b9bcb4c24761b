"""Buckets: numbers cut at boundaries."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import Missing
from workers.data.transforms.columns import (
    check_missing,
    check_whole,
    column_of,
    expect,
    floats,
    is_number,
    mark_missing,
    rows_with_missing,
)
from workers.errors import ProgramError

__all__ = ["Buckets"]

_FINITE = (-sys.float_info.max, sys.float_info.max)


@dataclass(frozen=True)
class Buckets:
    """Numbers cut at ascending boundaries: id i where boundaries[i-1] ≤ value < boundaries[i].

    Nulls, and NaN with them unless they are refused: as ``missing`` says. Infinite
    numbers are in the first or the last bucket.
    `workers.data.fitting.fit_buckets` finds boundaries that halve, quarter, ... the data.
    """

    column: str
    boundaries: tuple[float, ...]
    valency: int = 1
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        where = f"Buckets('{self.column}')"
        if any(one >= other for one, other in pairwise(self.boundaries)):
            raise ProgramError(f"{where}: boundaries must ascend, got {self.boundaries}")
        if not all(math.isfinite(boundary) for boundary in self.boundaries):
            raise ProgramError(f"{where}: boundaries must be finite, got {self.boundaries}")
        check_whole(where, "valency", self.valency, 1, 1)
        check_missing(where, self.missing)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def vocabulary_size(self) -> int:
        """One more than the boundaries, and one more if nulls have an id of their own."""
        return rows_with_missing(len(self.boundaries) + 1, self.missing)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds numbers."""
        expect(schema, self.column, is_number, "numbers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        column, nulls = column_of(table, self.column, takes_nulls=bool(self.nullable))
        values, nulls = floats(
            column, self.column, nulls, takes_nulls=bool(self.nullable), clip=_FINITE
        )
        ids = np.searchsorted(np.asarray(self.boundaries, np.float64), values, side="right")
        rows = len(self.boundaries) + 1
        return mark_missing(ids.astype(np.int32), nulls, self.missing, rows)[:, None]
