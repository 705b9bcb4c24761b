"""Ragged: rows of different lengths as one array of values and the offsets of the rows.

The form Arrow keeps lists in, for callers that have no Arrow array at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.errors import SpecError

__all__ = ["Ragged"]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Row ``k`` holds ``values[offsets[k]:offsets[k + 1]]``. Nothing is copied.

    Accepted by preprocessing as the ids, or the gains, of one feature.

    Example:
        >>> Ragged(np.array([7, 8, 9]), np.array([0, 2, 2, 3]))[0]
        array([7, 8])

    Raises:
        SpecError: An array is not one-dimensional, or offsets are no integers, do not ascend, or
            point outside the values.
    """

    values: np.ndarray
    """``[n]``: ids (int32 or int64) or gains (float32)."""
    offsets: np.ndarray
    """``[rows + 1]`` int32 or int64, ascending; the first may be above 0."""

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.offsets.ndim != 1 or not self.offsets.size:
            raise SpecError(
                f"Ragged: values have shape {self.values.shape}, offsets {self.offsets.shape}; "
                "give [n] and [rows + 1]"
            )
        if self.offsets.dtype not in (np.dtype(np.int32), np.dtype(np.int64)):
            raise SpecError(f"Ragged: offsets are {self.offsets.dtype}; give int32 or int64")
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        falls = self.offsets[1:] < self.offsets[:-1]
        if falls.any():
            row = int(np.argmax(falls))
            raise SpecError(
                f"Ragged: row {row} runs from {self.offsets[row]} to {self.offsets[row + 1]}; "
                "offsets must ascend"
            )
        if first < 0 or last > self.values.size:
            raise SpecError(
                f"Ragged: offsets run from {first} to {last}, outside {self.values.size} values"
            )

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))
