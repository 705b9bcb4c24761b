"""Ids: integers that are ids already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import InvalidValue, Missing
from workers.data.transforms.columns import (
    check_missing,
    check_whole,
    column_of,
    expect,
    integers,
    mark_missing,
    rows_with_missing,
)

__all__ = ["Ids"]


@dataclass(frozen=True)
class Ids:
    """Integers that are ids already: 0 ≤ value < ``size``.

    Nulls: as ``missing`` says. With an id of their own, they get the one after the last value:
    ``vocabulary_size`` must count it.
    """

    column: str
    vocabulary_size: int
    valency: int = 1
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        where = f"Ids('{self.column}')"
        check_missing(where, self.missing)
        check_whole(
            where, "vocabulary_size", self.vocabulary_size, rows_with_missing(1, self.missing)
        )
        check_whole(where, "valency", self.valency, 1, 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def size(self) -> int:
        """Values are below this."""
        return self.vocabulary_size - rows_with_missing(0, self.missing)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds integers."""
        expect(schema, self.column, pa.types.is_integer, "integers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        column, nulls = column_of(table, self.column, takes_nulls=bool(self.nullable))
        values = integers(column, self.column)
        outside = (values < 0) | (values >= self.size)
        if outside.any():
            row = int(np.argmax(outside))
            raise InvalidValue(
                self.column,
                row,
                f"id {values[row]} is outside the vocabulary [0, {self.size}); raise "
                "the vocabulary or hash the column",
            )
        return mark_missing(values.astype(np.int32), nulls, self.missing, self.size)[:, None]
