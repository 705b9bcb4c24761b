"""Where rows come from: files, or the synthetic click log.

The same functions as in ``workers.data.dataset``, for every kind of ``data``.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from workers.data import dataset, splitting, synthetic
from workers.data.click_truth import BestPossible
from workers.data.dataset import Dataset, RowGroup
from workers.data.examples import Examples, Schema
from workers.data.holdout import Holdout
from workers.data.quarantine import Quarantine
from workers.errors import DataError

__all__ = [
    "best_of",
    "check_dataset",
    "has_split",
    "open_dataset",
    "read_columns",
    "read_row_group",
]


def open_dataset(
    path: str | Path,
    split: str,
    columns: Collection[str] | None = None,
    holdout: Holdout | None = None,
) -> Dataset:
    """The row groups of a split: see ``workers.data.dataset.open_dataset``.

    Args:
        path: The data.
        split: ``train`` or ``test``.
        columns: Columns that must have the same type in all files.
        holdout: Which rows are ``test``, where the data has no folder for them.
    """
    if synthetic.is_synthetic(path):
        return synthetic.open_synthetic(str(path), split)
    if holdout is not None:
        return splitting.open_part(str(path), split, holdout, columns)
    return dataset.open_dataset(path, split, columns)


def has_split(path: str | Path, split: str, holdout: Holdout | None = None) -> bool:
    """Whether the data has a split.

    Raises:
        DataError: The data has a ``test`` split, and rows are to be held out besides.
    """
    if synthetic.is_synthetic(path):
        there = synthetic.ClickLog.parse(str(path)).rows_of(split) > 0
    else:
        there = dataset.has_split(path, split)
    if holdout is None or split == "train":
        return there
    if there:
        raise DataError(
            f"data '{path}' has a '{split}' split of its own: leave out holdout.by={holdout.by}"
        )
    return True


def check_dataset(data: Dataset, schema: Schema, *, values: bool = True) -> None:
    """Check columns and types, and values as far as they are known before reading.

    Args:
        data: The data.
        schema: How columns become examples.
        values: Whether bad values in files are refused already.

    Raises:
        DataError: Naming what does not fit.
    """
    if synthetic.is_synthetic(data.path):
        return synthetic.check_synthetic(data, schema)
    return dataset.check_dataset(data, schema, values=values)


def read_row_group(
    group: RowGroup, schema: Schema, quarantine: Quarantine | None = None
) -> Examples:
    """Read, or make, one row group and transform it.

    Args:
        group: Where the rows are.
        schema: How columns become examples.
        quarantine: Takes bad rows of files, which then have weight 0; None refuses them.

    Raises:
        DataError: It cannot be read, or a value cannot be used.
    """
    if synthetic.is_synthetic(group.file):
        return synthetic.read_synthetic(group, schema)
    return dataset.read_row_group(group, schema, quarantine)


def read_columns(group: RowGroup, columns: Collection[str]) -> pa.Table:
    """Read, or make, some columns of one row group, in the order of their names.

    Raises:
        DataError: It cannot be read.
    """
    if synthetic.is_synthetic(group.file):
        return synthetic.synthetic_table(group).select(sorted(columns))
    return dataset.read_columns(group, columns).select(sorted(columns))


def best_of(path: str | Path) -> BestPossible | None:
    """The best figures any model can reach on this data; None where no truth is known."""
    return synthetic.best_of(str(path)) if synthetic.is_synthetic(path) else None
