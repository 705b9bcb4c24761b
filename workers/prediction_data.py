"""The data that is predicted: its rows in their order, and the columns kept beside predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset
from workers.data.examples import Schema
from workers.data.order import PADDING_ROW
from workers.data.sources import read_columns
from workers.errors import DataError
from workers.prediction_protocol import PredictionSpec
from workers.program import Program
from workers.protocol import Assignment
from workers.run_data import RunData

__all__ = ["RowRange", "open_predicted", "pieces_of", "prediction_schema"]


def prediction_schema(program: Program) -> Schema:
    """How columns become examples without labels."""
    return replace(program.schema, label=None, positive=None)


def open_predicted(
    program: Program,
    spec: PredictionSpec,
    written: Sequence[str],
    assignment: Assignment | None = None,
) -> Dataset:
    """Read the metadata of the data to predict, and check its columns.

    Args:
        program: What was trained.
        spec: What is to be predicted; with the driver's index of the data, where it has one.
        written: Columns that predictions are written to.
        assignment: The host's place, so that it looks into some of the files of the index.

    Raises:
        DataError: The data cannot be read, lacks a column, or has one of another type.
    """
    schema = prediction_schema(program)
    columns = {*schema.columns, *spec.keep}
    data = RunData(spec, columns, assignment).open(spec.split)
    missing = [name for name in spec.keep if name not in data.schema.names]
    if missing:
        raise DataError(
            f"keep: data '{spec.data}' has no column '{missing[0]}'; it has "
            f"{', '.join(data.schema.names)}"
        )
    if taken := sorted({*spec.keep} & {*written}):
        raise DataError(
            f"keep: a column '{taken[0]}' is written with the predictions; leave it out of keep"
        )
    try:
        schema.check(data.schema)
    except DataError as error:
        raise DataError(f"data '{spec.data}', split '{spec.split}': {error}") from error
    return data


@dataclass(frozen=True)
class RowRange:
    """An order of rows (see ``workers.data.order.RowOrder``) that is theirs: one host's part.

    Every host has a part of its own, so only the width of its share of a batch counts, not where
    in the batch it lies.

    Attributes:
        rows: The rows.
        batch_size: Samples of a global batch.
        steps: Steps to make of it: beyond the rows, batches are padding.
    """

    rows: range
    batch_size: int
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        """All steps."""
        return self.steps

    def position(self, step: int) -> tuple[int, int]:
        """There is one epoch."""
        return 0, step

    def examples_of(self, step: int) -> int:
        """Not known of the other hosts: at most the whole batch."""
        return self.batch_size

    def batches(
        self, epoch: int, first: int, last: int, slots: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Row ids of the steps [first, last): int64 ``[last - first, width of the slots]``."""
        low, high = slots if slots is not None else (0, self.batch_size)
        width = high - low
        found = self.rows.start + np.arange(first * width, last * width, dtype=np.int64)
        return np.where(found < self.rows.stop, found, PADDING_ROW).reshape(last - first, width)


def pieces_of(dataset: Dataset, rows: range, keep: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """The kept columns of a range of rows, one row group at a time.

    Yields:
        How many rows, and their columns in the order of ``keep``; without any, a table without
        columns.
    """
    for group in dataset.row_groups:
        begin = max(rows.start, group.first_row)
        end = min(rows.stop, group.first_row + group.rows)
        if begin >= end:
            continue
        if not keep:
            yield end - begin, pa.table({})
            continue
        table = read_columns(group, keep).select(list(keep))
        yield end - begin, table.slice(begin - group.first_row, end - begin)
