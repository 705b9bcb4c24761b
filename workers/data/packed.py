"""Examples packed row by row, so that an example lies in one place of memory.

    one row of 32-bit words     │ ids of every feature │ dense columns │ label │ weight │

A batch takes rows from all over the data. Kept column by column, each row costs a miss of the cache
for every column, and each column a call of numpy for every row group. Packed, a row is one copy of
some hundred bytes; only the batch, which fits into the cache, is turned into columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workers.data.examples import Examples, Schema

__all__ = ["RowLayout"]

BLOCK_BYTES = 512 << 10
"""Bytes of rows turned into columns, or back, at once: they stay in the cache meanwhile."""


@dataclass(frozen=True)
class RowLayout:
    """What a packed row consists of.

    Attributes:
        valencies: Feature name and valency, in the order of the schema.
        dense: Number of dense columns.
    """

    valencies: tuple[tuple[str, int], ...]
    dense: int

    @staticmethod
    def of(schema: Schema) -> RowLayout:
        """The layout of a schema's examples."""
        valencies = tuple((name, transform.valency) for name, transform in schema.features)
        return RowLayout(valencies, len(schema.dense))

    @property
    def words(self) -> int:
        """32-bit words of a row."""
        return sum(valency for _, valency in self.valencies) + self.dense + 2

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return 4 * self.words

    def pack(self, examples: Examples) -> np.ndarray:
        """Examples as rows.

        Returns:
            int32 ``[n, words]``; floats as their bits.
        """
        packed = np.empty((len(examples.labels), self.words), np.int32)
        for rows, block in self._blocks(packed):
            for columns, source in self._fields(block, examples):
                columns[...] = source[rows]
        return packed

    def unpack(self, packed: np.ndarray, order: np.ndarray | None = None) -> Examples:
        """Rows as examples, each array of them contiguous.

        Args:
            packed: int32 ``[m, words]``.
            order: int ``[n]``, which rows to take; by default all of them, as they are.
        """
        count = len(packed) if order is None else len(order)
        examples = Examples(
            {name: np.empty((count, valency), np.int32) for name, valency in self.valencies},
            np.empty((count, self.dense), np.float32),
            np.empty(count, np.float32),
            np.empty(count, np.float32),
        )
        for first in range(0, count, self._block_rows):
            rows = slice(first, first + self._block_rows)
            # Nothing is clipped: this mode alone writes without a buffer, and places are valid.
            block = packed[rows] if order is None else packed.take(order[rows], 0, mode="clip")
            for columns, target in self._fields(block, examples):
                target[rows] = columns
        return examples

    @property
    def _block_rows(self) -> int:
        return max(1, BLOCK_BYTES // self.row_bytes)

    def _blocks(self, packed: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for first in range(0, len(packed), self._block_rows):
            rows = slice(first, first + self._block_rows)
            yield rows, packed[rows]

    def _fields(
        self, packed: np.ndarray, examples: Examples
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Views of the columns of some rows, each with the examples' array for all rows."""
        first = 0
        for name, valency in self.valencies:
            yield packed[:, first : first + valency], examples.ids[name]
            first += valency
        floats = packed.view(np.float32)
        yield floats[:, first : first + self.dense], examples.dense
        yield floats[:, -2], examples.labels
        yield floats[:, -1], examples.weights
