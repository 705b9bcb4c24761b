"""A sample of rows, the same every time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset, RowGroup, read_columns
from workers.data.transforms import hash_values

__all__ = ["sample_rows"]

MOST_ROW_GROUPS = 64
"""Row groups read for a sample: evenly spread, as neighbours often are alike."""


def sample_rows(dataset: Dataset, rows: int, columns: list[str]) -> pa.Table:
    """About ``rows`` rows of a dataset; all of them if it has no more.

    Of at most 64 row groups, evenly spread over the data, the rows with the smallest hashes of
    their number.

    Args:
        dataset: The data.
        rows: How many.
        columns: Columns to read.

    Raises:
        DataError: A file is missing or damaged.
    """
    groups = dataset.row_groups
    if dataset.rows > rows and len(groups) > MOST_ROW_GROUPS:
        places = np.linspace(0, len(groups) - 1, MOST_ROW_GROUPS).round().astype(int)
        groups = tuple(groups[place] for place in places)
    share = min(1.0, rows / sum(group.rows for group in groups))

    def part(group: RowGroup) -> pa.Table:
        table = read_columns(group, columns).select(columns)
        if share == 1.0:
            return table
        numbers = np.arange(group.first_row, group.first_row + group.rows, dtype=np.int64)
        chosen = hash_values(pa.array(numbers)) < share * 2.0**64
        return table.filter(pa.array(chosen))

    with ThreadPoolExecutor(4) as threads:
        return pa.concat_tables(threads.map(part, groups))
