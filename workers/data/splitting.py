"""Data cut into what is trained on and what is held out, without a copy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache

import pyarrow as pa

from workers.data.dataset import Dataset, RowGroup, open_dataset, read_columns
from workers.data.holdout import Holdout, Part
from workers.data.ranked_value import few_in_order, ranked_value
from workers.data.tables import read_statistics
from workers.data.transforms.times import is_time
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
    if whole.rows < 2:
        raise DataError(
            f"data '{path}' has 1 row; to train and to evaluate takes at least 2: give more data, "
            "or folders 'train' and 'test'"
        )
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

    The driver does this once a run, so that all hosts have the same. The column is read only in row
    groups whose statistics do not tell, in bounded memory: see ``workers.data.ranked_value``.

    Raises:
        DataError: The column is missing, of another type, or holds no moment.
    """
    if holdout.by != "time" or holdout.start is not None:
        return holdout
    whole = open_dataset(path, "train", holdout.columns)
    holdout.check(whole.schema)
    column = str(holdout.column)
    kind = whole.schema.field(column).type
    found = ranked_value(whole.row_groups, column, kind, 1 - holdout.share)
    if found is None:
        raise DataError(f"holdout.column '{column}' holds nothing but nulls")
    if not found.below:
        raise DataError(
            f"holdout.column '{column}' has the same value in most rows, so there is no moment "
            f"to part the last {holdout.share:.0%} of them at: choose another column"
        )
    if not is_time(kind):
        return replace(holdout, start=found.value)
    moment = pa.scalar(found.value, pa.timestamp("us"))
    return replace(holdout, start=moment.as_py().isoformat())


@lru_cache(maxsize=8)
def _held_out_rows(groups: tuple[RowGroup, ...], holdout: Holdout) -> tuple[int, ...]:
    """How many rows of each row group are held out."""
    (column,) = holdout.columns
    told = _told_by_statistics(groups, holdout) if holdout.by == "time" else {}

    def held_out(group: RowGroup) -> int:
        known = told.get((str(group.file), group.index))
        if known is not None:
            return group.rows if known else 0
        table = read_columns(group, {column})
        return int(holdout.held_out(table.column(column)).sum())

    return tuple(few_in_order(held_out, groups))


def _told_by_statistics(
    groups: tuple[RowGroup, ...], holdout: Holdout
) -> dict[tuple[str, int], bool]:
    """Row groups that are held out whole, or not at all, as their statistics tell."""
    (column,) = holdout.columns

    def of_file(file: str) -> dict[tuple[str, int], bool]:
        told = {}
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

    files = dict.fromkeys(str(group.file) for group in groups)
    return {place: low for told in few_in_order(of_file, files) for place, low in told.items()}
