"""TimePart: the hour, the weekday or another part of a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.transforms.base import Missing
from workers.data.transforms.columns import (
    check_choice,
    check_missing,
    column_of,
    expect,
    mark_missing,
    rows_with_missing,
)

__all__ = ["Part", "TimePart", "Unit", "is_time", "moments_of"]

type Part = Literal["hour", "weekday", "day", "month"]
"""Parts of a moment, in UTC: hour 0 to 23, weekday 0 (Monday) to 6, day 1 to 31, month 1 to 12."""

type Unit = Literal["s", "ms", "us", "ns"]
"""What integers count since 1970 began."""

_ROWS = {"hour": 24, "weekday": 7, "day": 32, "month": 13}


@dataclass(frozen=True)
class TimePart:
    """A part of a moment as an id.

    Timestamps and dates are taken as they are, in UTC where they know their zone; integers count
    ``unit`` since 1970 began.

    Nulls: as ``missing`` says.

    Example:
        >>> TimePart("clicked_at", "hour").vocabulary_size
        24
    """

    column: str
    part: Part
    unit: Unit = "s"
    valency: int = 1
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        where = f"TimePart('{self.column}')"
        check_choice(where, "part", self.part, get_args(Part.__value__))
        check_choice(where, "unit", self.unit, get_args(Unit.__value__))
        check_missing(where, self.missing)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def vocabulary_size(self) -> int:
        """The number of values of the part, and one more if nulls have an id of their own."""
        return rows_with_missing(_ROWS[self.part], self.missing)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing != "refuse" else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds moments, or integers."""
        expect(
            schema,
            self.column,
            lambda kind: is_time(kind) or pa.types.is_integer(kind),
            "timestamps, dates or integers",
        )

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, 1]``."""
        column, nulls = column_of(table, self.column, takes_nulls=bool(self.nullable))
        moments = moments_of(column, self.unit)
        compute: Any = pc
        found = {
            "hour": compute.hour,
            "weekday": compute.day_of_week,
            "day": compute.day,
            "month": compute.month,
        }[self.part](moments)
        ids = found.fill_null(0).to_numpy().astype(np.int32)
        return mark_missing(ids, nulls, self.missing, _ROWS[self.part])[:, None]


def is_time(kind: pa.DataType) -> bool:
    """Whether values are timestamps or dates."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def moments_of(values: pa.ChunkedArray, unit: Unit = "s") -> pa.ChunkedArray:
    """Timestamps without a zone, in UTC; nulls stay.

    Args:
        values: Timestamps, dates, or integers that count ``unit`` since 1970 began.
        unit: See above.
    """
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp(values.type.unit))
    if pa.types.is_date(values.type):
        return values.cast(pa.timestamp("ms"))
    return values.cast(pa.int64()).cast(pa.timestamp(unit))
