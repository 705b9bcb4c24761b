"""Data cut into what is trained on and what is held out, without a copy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset, RowGroup, open_dataset, read_columns
from workers.data.holdout import Holdout, Part
from workers.data.tables import read_statistics
from workers.data.transforms.times import is_time, moments_of
from workers.errors import DataError

__all__ = ["open_part", "resolve_holdout"]


def open_part(
    path: str, split: str, holdout: Holdout, columns: Collection[str] | None = None
) -> Dataset:
    """Open the rows of one split of data that has no folder for it.

    Of a random choice, only metadata is read. Otherwise the column is read once in each process;
    by time, only in row groups whose statistics do not tell.

    Args:
        path: The data.
        split: ``train`` or ``test``.
        holdout: Which rows are ``test``.
        columns: See ``open_dataset``.

    Raises:
        DataError: The data cannot be opened, or no row is left for the split.
    """
    wanted = None if columns is None else {*columns, *holdout.columns}
    whole = open_dataset(path, "train", wanted)
    holdout.check(whole.schema)
    groups, first = [], 0
    held_out = split == "test"
    counts = None if holdout.by == "random" else _held_out_rows(whole.row_groups, holdout)
    for number, group in enumerate(whole.row_groups):
        part = Part(holdout, held_out, group.rows, group.first_row)
        if counts is None:
            rows = part.random_rows()
        else:
            rows = counts[number] if held_out else group.rows - counts[number]
        if rows:
            groups.append(replace(group, rows=rows, first_row=first, part=part))
        first += rows
    if not groups:
        raise DataError(
            f"holdout leaves no row of '{path}' for the '{split}' split: change holdout.share"
            + ("" if holdout.column is None else f", or hold out by another column ({holdout})")
        )
    return Dataset(whole.path, split, tuple(groups), whole.schema)


def resolve_holdout(path: str, holdout: Holdout) -> Holdout:
    """The same with ``start`` filled in: the moment from which on ``share`` of the rows are.

    Reads the column once. The driver does this once a run, so that all hosts have the same.

    Raises:
        DataError: The column is missing, of another type, or holds no moment.
    """
    if holdout.by != "time" or holdout.start is not None:
        return holdout
    whole = open_dataset(path, "train", holdout.columns)
    holdout.check(whole.schema)
    column = str(holdout.column)
    chunks = [_numbers(read_columns(group, {column}).column(column)) for group in whole.row_groups]
    values = np.sort(np.concatenate(chunks))
    if not values.size:
        raise DataError(f"holdout.column '{column}' holds nothing but nulls")
    start = values[int(len(values) * (1 - holdout.share))]
    if start == values[0]:
        raise DataError(
            f"holdout.column '{column}' has the same value in most rows, so there is no moment "
            f"to part the last {holdout.share:.0%} of them at: choose another column"
        )
    if not is_time(whole.schema.field(column).type):
        return replace(holdout, start=start.item())
    moment = pa.scalar(int(start), pa.timestamp("us"))
    return replace(holdout, start=moment.as_py().isoformat())


def _numbers(values: pa.ChunkedArray) -> np.ndarray:
    """Numbers as they are, moments in microseconds; without nulls."""
    if is_time(values.type):
        values = moments_of(values).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    found = values.drop_null().to_numpy()
    return found[~np.isnan(found)] if found.dtype.kind == "f" else found


@lru_cache(maxsize=8)
def _held_out_rows(groups: tuple[RowGroup, ...], holdout: Holdout) -> tuple[int, ...]:
    """How many rows of each row group are held out."""
    (column,) = holdout.columns
    told = _told_by_statistics(groups, holdout) if holdout.by == "time" else {}
    counts = []
    for group in groups:
        known = told.get((str(group.file), group.index))
        if known is None:
            table = read_columns(group, {column})
            known = int(holdout.held_out(table.column(column)).sum())
        else:
            known = group.rows if known else 0
        counts.append(known)
    return tuple(counts)


def _told_by_statistics(
    groups: tuple[RowGroup, ...], holdout: Holdout
) -> dict[tuple[str, int], bool]:
    """Row groups that are held out whole, or not at all, as their statistics tell."""
    (column,) = holdout.columns
    told = {}
    for file in dict.fromkeys(str(group.file) for group in groups):
        for index, name, statistics in read_statistics(file):
            if name != column or not statistics.has_min_max or statistics.null_count != 0:
                continue
            try:
                ends = pa.chunked_array([pa.array([statistics.min, statistics.max])])
                low, high = holdout.held_out(ends).tolist()
            except (pa.ArrowException, DataError):
                continue
            # Statistics pass over NaN, which is held out by no moment.
            sure = low == high and not (low and statistics.physical_type in ("FLOAT", "DOUBLE"))
            if sure:
                told[file, index] = low
    return told
