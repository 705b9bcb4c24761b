"""Examples as arrays, and the schema that makes them from columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.transforms import (
    PADDING_ID,
    DenseTransform,
    IdTransform,
    InvalidValue,
    Number,
    nullable_columns,
)
from workers.data.transforms.columns import column_of, expect, is_text
from workers.errors import DataError

__all__ = ["Examples", "Schema"]


@dataclass(frozen=True)
class Examples:
    """A number of examples.

    Attributes:
        ids: By feature, int32 ``[n, valency]``, padded with -1.
        dense: float32 ``[n, dense features]``.
        labels: float32 ``[n]``, 0 or 1.
        weights: float32 ``[n]``; 0 marks padding.
    """

    ids: Mapping[str, np.ndarray]
    dense: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        arrays = (*self.ids.values(), self.dense, self.labels, self.weights)
        return sum(array.nbytes for array in arrays)

    def put(self, places: np.ndarray, source: Examples, rows: np.ndarray) -> None:
        """Write the ``rows`` of ``source`` to these places."""
        for name, ids in self.ids.items():
            ids[places] = source.ids[name][rows]
        self.dense[places] = source.dense[rows]
        self.labels[places] = source.labels[rows]
        self.weights[places] = source.weights[rows]

    def slice(self, first: int, last: int) -> Examples:
        """The examples [first, last), without a copy."""
        return Examples(
            {name: ids[first:last] for name, ids in self.ids.items()},
            self.dense[first:last],
            self.labels[first:last],
            self.weights[first:last],
        )


@dataclass(frozen=True)
class Schema:
    """How the columns of a file become examples.

    Attributes:
        features: (feature name, transform) of the embedding features.
        dense: Transforms of the dense features, in order.
        label: Column of the label, 0 or 1 (integers, floats or booleans); None reads none, and
            labels are 0.
        positive: Where given, other labels are taken too: a number of at least this counts as 1,
            or a string that is this; all others count as 0.
    """

    features: tuple[tuple[str, IdTransform], ...]
    dense: tuple[DenseTransform, ...]
    label: str | None
    positive: float | str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """All columns that are read."""
        transforms = [transform for _, transform in self.features]
        read = [column for t in (*transforms, *self.dense) for column in t.columns]
        return frozenset(read if self.label is None else [self.label, *read])

    @property
    def nullable(self) -> frozenset[str]:
        """Columns that may hold nulls: every transform that reads one has something for them."""
        transforms = [*(transform for _, transform in self.features), *self.dense]
        refused = {c for t in transforms for c in set(t.columns) - nullable_columns(t)}
        return self.columns - refused - {self.label}

    def check(self, schema: pa.Schema) -> None:
        """Raise DataError if a column is missing or has a type its transform cannot read."""
        for name, transform in self.features:
            try:
                transform.check(schema)
            except DataError as error:
                raise DataError(f"feature '{name}': {error}") from error
        for transform in self.dense:
            transform.check(schema)
        if self.label is None:
            return
        try:
            if isinstance(self.positive, str):
                expect(schema, self.label, is_text, "strings (as positive is one)")
            else:
                Number(self.label).check(schema)
        except DataError as error:
            raise DataError(f"label: {error}") from error

    def empty(self, rows: int) -> Examples:
        """Writable examples that are all padding."""
        return Examples(
            {
                name: np.full((rows, transform.valency), PADDING_ID, np.int32)
                for name, transform in self.features
            },
            np.zeros((rows, len(self.dense)), np.float32),
            np.zeros(rows, np.float32),
            np.zeros(rows, np.float32),
        )

    def apply(self, table: pa.Table) -> Examples:
        """Transform a table of rows.

        Raises:
            InvalidValue: Naming column and row.
        """
        dense = [transform.apply(table) for transform in self.dense]
        return Examples(
            {name: transform.apply(table) for name, transform in self.features},
            np.stack(dense, axis=1) if dense else np.zeros((table.num_rows, 0), np.float32),
            self._labels(table),
            np.ones(table.num_rows, np.float32),
        )

    def _labels(self, table: pa.Table) -> np.ndarray:
        if self.label is None:
            return np.zeros(table.num_rows, np.float32)
        if isinstance(self.positive, str):
            column, _ = column_of(table, self.label)
            words = column.cast(pa.large_string()).to_numpy()
            return (words == self.positive).astype(np.float32)
        labels = Number(self.label).apply(table)
        if self.positive is not None:
            return (labels >= self.positive).astype(np.float32)
        wrong = (labels != 0) & (labels != 1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InvalidValue(self.label, row, f"label {labels[row]} is neither 0 nor 1")
        return labels
