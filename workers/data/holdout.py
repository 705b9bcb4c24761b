"""Which rows of the data are held out to evaluate on, where there is no ``test`` folder.

Nothing is copied: both splits read the same row groups, and each takes its own rows of them.

    random    a share of every row group: rows with the smallest hashes. How many is known from the
              metadata alone, and which depends on seed and row number alone.
    time      rows from a moment on.
    column    rows with given values; or all rows of a share of the values, for example of users.

For the last two, somebody must look at the column to know how many rows of a row group are held
out; that is done when the data is opened (``workers.data.splitting``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.data.transforms import hash_values
from workers.data.transforms.columns import is_hashable, is_number, plain
from workers.data.transforms.times import is_time, moments_of
from workers.errors import DataError

__all__ = ["Holdout", "Part", "Way"]

type Way = Literal["random", "time", "column"]
"""How rows are chosen."""


@dataclass(frozen=True)
class Holdout:
    """Which rows are held out.

    Attributes:
        by: See ``Way``.
        column: Column of moments, numbers or values; None for ``random``.
        share: Of the rows, for ``time`` only a wish until ``start`` is known; of the values of the
            column for ``column`` without ``values``.
        start: For ``time``: the first moment that is held out; a number, or an ISO date and time
            in UTC for columns of timestamps or dates.
        values: For ``column``: rows with these are held out.
        seed: Of the choice.
    """

    by: Way = "random"
    column: str | None = None
    share: float = 0.1
    start: float | int | str | None = None
    values: tuple[Any, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in get_args(Way.__value__):
            raise DataError(f"holdout.by is {self.by!r}; give random, time or column")
        if not 0 < self.share < 1:
            raise DataError(f"holdout.share is {self.share}; give a number between 0 and 1")
        if (self.by == "random") != (self.column is None):
            raise DataError(
                f"holdout.by={self.by} "
                + ("needs holdout.column" if self.column is None else "takes no holdout.column")
            )

    @property
    def columns(self) -> frozenset[str]:
        """Columns that tell which rows are held out."""
        return frozenset(() if self.column is None else (self.column,))

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError unless the column is there and of a type that suits."""
        if self.column is None:
            return
        if self.column not in schema.names:
            raise DataError(f"holdout.column '{self.column}' is missing from the data")
        kind = schema.field(self.column).type
        if self.by == "time" and not (is_time(kind) or is_number(kind)):
            raise DataError(
                f"holdout.column '{self.column}' has type {kind}; to hold out by time, give one of "
                "timestamps, dates or numbers"
            )
        if self.by == "column" and not (is_hashable(kind) or pa.types.is_boolean(plain(kind))):
            raise DataError(
                f"holdout.column '{self.column}' has type {kind}; give one of strings or integers"
            )

    def held_out(self, values: pa.ChunkedArray) -> np.ndarray:
        """Which rows are held out, from the values of the column: bool ``[n]``.

        A null is held out only where ``values`` names it.
        """
        compute: Any = pc
        if self.by == "time":
            kind = values.type
            if is_time(kind):
                values = moments_of(values)
            mask = compute.greater_equal(values, self._start(kind, values.type))
        elif self.values:
            named = [None if value is None else str(value) for value in self.values]
            chosen = pa.array(named, pa.large_string())
            if pa.types.is_boolean(values.type):
                chosen = compute.utf8_lower(chosen)
            words = values.cast(plain(values.type)).cast(pa.large_string())
            mask = compute.is_in(words, chosen)
        else:
            words = values.cast(plain(values.type))
            words = words.cast(pa.int64()) if not is_hashable(words.type) else words
            picked = hash_values(words, self.seed) < self.share * 2.0**64
            mask = compute.and_(pa.array(picked), values.is_valid().combine_chunks())
        found = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
        return found.fill_null(False).to_numpy(zero_copy_only=False)

    def _start(self, kind: pa.DataType, stored: pa.DataType) -> pa.Scalar:
        if self.start is None:
            raise DataError(f"holdout.start is not known yet for column '{self.column}'")
        try:
            if is_time(kind):
                return pa.scalar(str(self.start)).cast(pa.timestamp("us")).cast(stored, safe=False)
            return pa.scalar(self.start)
        except pa.ArrowException as error:
            raise DataError(
                f"holdout.start is {self.start!r}, but column '{self.column}' holds {kind}: {error}"
            ) from error


@dataclass(frozen=True)
class Part:
    """The rows of one row group that belong to one split.

    Attributes:
        holdout: Which rows are held out.
        held_out: Whether these are the ones held out, or the others.
        rows: All rows of the row group.
        first_row: Number of its first row, counting all rows of the data.
    """

    holdout: Holdout
    held_out: bool
    rows: int
    first_row: int

    @property
    def columns(self) -> frozenset[str]:
        """Columns to read beside those wanted, to know which rows these are."""
        return self.holdout.columns

    @property
    def split(self) -> str:
        """``test`` for what is held out, otherwise ``train``."""
        return "test" if self.held_out else "train"

    def places(self, table: pa.Table) -> np.ndarray:
        """Rows of the row group that belong to the split, ascending: int64 ``[n]``.

        Args:
            table: The row group with at least ``columns``.
        """
        if self.holdout.by == "random":
            mask = self._random_mask()
        else:
            (column,) = self.columns
            mask = self.holdout.held_out(table.column(column))
        return np.flatnonzero(mask == self.held_out)

    def random_rows(self) -> int:
        """How many rows ``places`` gives for a random choice, known without reading."""
        held_out = int((self.first_row + self.rows) * self.holdout.share) - int(
            self.first_row * self.holdout.share
        )
        return held_out if self.held_out else self.rows - held_out

    def _random_mask(self) -> np.ndarray:
        wanted = int((self.first_row + self.rows) * self.holdout.share) - int(
            self.first_row * self.holdout.share
        )
        numbers = pa.array(np.arange(self.first_row, self.first_row + self.rows, dtype=np.int64))
        order = np.argsort(hash_values(numbers, self.holdout.seed), kind="stable")
        mask = np.zeros(self.rows, bool)
        mask[order[:wanted]] = True
        return mask
