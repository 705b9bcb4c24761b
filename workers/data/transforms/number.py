"""Number: dense columns, clipped, in logarithms, standardised."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.transforms.base import InvalidValue
from workers.data.transforms.columns import column_of, expect, floats, is_number
from workers.errors import ProgramError

__all__ = ["Number"]


@dataclass(frozen=True)
class Number:
    """A number, standardised: (value - mean) / scale, after log(1 + value) where ``log``.

    Before all that, values are clipped to [``least``, ``most``], where they are given: Criteo's
    counts, for instance, may be as low as -3, which has no logarithm.

    Nulls, and NaN with them: ``missing`` stands for them, in the unit of the column; None refuses
    both. Infinity is refused unless it is clipped.
    `workers.data.fitting.fit_numbers` takes mean and scale from data.

    Example:
        >>> Number("I3", mean=1.5, scale=0.9, log=True, least=0.0, missing=0.0)
    """

    column: str
    mean: float = 0.0
    scale: float = 1.0
    log: bool = False
    least: float | None = None
    most: float | None = None
    missing: float | None = None

    def __post_init__(self) -> None:
        where = f"Number('{self.column}')"
        for name in ("mean", "scale", "least", "most", "missing"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ProgramError(f"{where}: {name} is {value}; give a finite number")
        if self.scale == 0:
            raise ProgramError(
                f"{where}: scale is 0; give 1 for a column that is always the same, or leave it out"
            )
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ProgramError(f"{where}: least {self.least} is above most {self.most}; swap them")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        return (self.column,)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Columns that may hold nulls."""
        return self.columns if self.missing is not None else ()

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column holds numbers."""
        expect(schema, self.column, is_number, "numbers")

    def apply(self, table: pa.Table) -> np.ndarray:
        """float32 ``[rows]``."""
        return ((self.prepare(table) - self.mean) / self.scale).astype(np.float32)

    def prepare(self, table: pa.Table) -> np.ndarray:
        """float64 ``[rows]``: everything but standardising; what mean and scale are taken of."""
        column, nulls = column_of(table, self.column, takes_nulls=bool(self.nullable))
        clip = None if self.least is None and self.most is None else (self.least, self.most)
        values, nulls = floats(
            column, self.column, nulls, takes_nulls=bool(self.nullable), clip=clip
        )
        if nulls is not None:
            values[nulls] = self.missing
        if self.log:
            if len(values) and values.min() <= -1:
                row = int(np.argmax(values <= -1))
                raise InvalidValue(self.column, row, f"log(1 + {values[row]}) is not defined")
            values = np.log1p(values)
        return values
