"""What a transform is, and what goes wrong in one."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from workers.errors import DataError

__all__ = [
    "PADDING_ID",
    "DenseTransform",
    "IdTransform",
    "InvalidValue",
    "Missing",
    "nullable_columns",
]

PADDING_ID = -1
"""Id that stands for "no id" in padded feature arrays."""

type Missing = Literal["refuse", "skip", "own"]
"""What becomes of a null: an error, no id at all, or an id of its own, the last one."""


class InvalidValue(DataError):
    """A value a transform cannot take; the reader adds file and row group.

    Attributes:
        column: Name of the column.
        row: Row within the table the transform was given.
        problem: What is wrong with the value.
    """

    def __init__(self, column: str, row: int, problem: str) -> None:
        self.column, self.row, self.problem = column, row, problem
        super().__init__(f"column '{column}', row {row}: {problem}")

    def __reduce__(self) -> tuple[type[InvalidValue], tuple[str, int, str]]:
        return type(self), (self.column, self.row, self.problem)


class IdTransform(Protocol):
    """Turns columns into ids of one feature.

    A transform that has something for nulls names the columns where in ``nullable``, a tuple of
    names; without it, nulls that a file's metadata tells of are refused before a row is read.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        ...

    @property
    def valency(self) -> int:
        """Most ids a sample can have."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Ids are below this."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column is missing or has a type this cannot read."""
        ...

    def apply(self, table: pa.Table) -> np.ndarray:
        """int32 ``[rows, valency]``, where -1 is no id; raises InvalidValue."""
        ...


class DenseTransform(Protocol):
    """Turns columns into one dense number per row; may have ``nullable`` too."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it reads."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column is missing or has a type this cannot read."""
        ...

    def apply(self, table: pa.Table) -> np.ndarray:
        """float32 ``[rows]``; raises InvalidValue."""
        ...


def nullable_columns(transform: IdTransform | DenseTransform) -> frozenset[str]:
    """Columns in which a transform has something for nulls."""
    return frozenset(getattr(transform, "nullable", ()))
