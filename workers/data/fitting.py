"""Vocabularies, boundaries, means and deviations, taken from data in one pass.

A program is made anew on every host, so these passes are made once, beforehand, and what they find
is written down: in a vocabulary file (`write_vocabulary`), in a file of numbers (`write_numbers`),
or in the program's text.

    data = open_dataset("logs", "train")
    write_vocabulary("cities.parquet", fit_vocabulary(data, "city", least_count=10))
    write_numbers("numbers.json", fit_numbers(data, [Number("price", log=True)]))
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset, read_columns
from workers.data.transforms import (
    InvalidValue,
    Moments,
    Number,
    ValueCounter,
    ValueSet,
    hash_values,
)
from workers.data.transforms.columns import check_whole
from workers.errors import DataError

__all__ = [
    "count_values",
    "fit_buckets",
    "fit_numbers",
    "fit_vocabulary",
    "read_numbers",
    "write_numbers",
]


def count_values(dataset: Dataset, column: str, capacity: int = 10_000_000) -> ValueCounter:
    """Count the values of a column of strings or integers, or of lists of them.

    Args:
        dataset: Its rows are read once, a row group at a time.
        column: Column to count.
        capacity: Most distinct values to keep; see `ValueCounter`.

    Raises:
        DataError: The column is missing, of another type, or cannot be read.
    """
    counter = ValueCounter(capacity, column)
    for where, table in _row_groups(dataset, [column]):
        try:
            counter.add(table.column(column))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return counter


def fit_vocabulary(
    dataset: Dataset,
    column: str,
    *,
    most: int | None = None,
    least_count: int = 1,
    capacity: int = 10_000_000,
) -> ValueSet:
    """The values of a column that occur often enough, the most frequent first.

    Args:
        dataset: Its rows are read once.
        column: Column of strings or integers, or of lists of them.
        most: Most values; all by default.
        least_count: Values that occur less often are left out.
        capacity: Most distinct values counted exactly; see `ValueCounter`.

    Raises:
        DataError: The column is missing, of another type, or no value is left.
    """
    return count_values(dataset, column, capacity).vocabulary(most=most, least_count=least_count)


def fit_numbers(dataset: Dataset, numbers: Sequence[Number]) -> tuple[Number, ...]:
    """The same transforms with mean and scale (the standard deviation) taken from data.

    Values are clipped and in logarithms, and what is missing is filled, before that. A column that
    is always the same keeps a scale of 1.

    Raises:
        DataError: A column does not suit its transform, or holds a value it cannot take.
    """
    for number in numbers:
        number.check(dataset.schema)
    moments = [Moments() for _ in numbers]
    for where, table in _row_groups(dataset, [number.column for number in numbers]):
        prepared = _located(where, lambda table=table: [n.prepare(table) for n in numbers])
        moments = [old + Moments.of(values) for old, values in zip(moments, prepared, strict=True)]
    return tuple(
        dataclasses.replace(number, mean=found.mean, scale=found.deviation or 1.0)
        for number, found in zip(numbers, moments, strict=True)
    )


def fit_buckets(
    dataset: Dataset, column: str, buckets: int, *, sample: int = 1_000_000
) -> tuple[float, ...]:
    """Boundaries that cut a column of numbers into buckets of about as many rows each.

    The quantiles are those of a sample of about ``sample`` rows, the same every time: rows are
    chosen by the hash of their number. Equal boundaries are merged, so there may be fewer buckets.
    Nulls and NaN are passed over.

    Raises:
        DataError: The column is missing, of another type, or has no number.
    """
    check_whole(f"fit_buckets of '{column}'", "buckets", buckets, 2)
    check_whole(f"fit_buckets of '{column}'", "sample", sample)
    number = Number(column)
    number.check(dataset.schema)
    threshold = min(1.0, sample / max(dataset.rows, 1)) * 2.0**64
    kept: list[np.ndarray] = []
    first = 0
    for where, table in _row_groups(dataset, [column]):
        chosen = hash_values(pa.array(np.arange(first, first + table.num_rows))) < threshold
        first += table.num_rows
        chosen &= table.column(column).is_null(nan_is_null=True).to_numpy() == 0
        rows = table.filter(pa.array(chosen))
        kept.append(_located(where, lambda rows=rows: number.prepare(rows)))
    values = np.concatenate(kept)
    if not values.size:
        raise DataError(f"data '{dataset.path}', column '{column}': no number to take buckets from")
    cuts = np.quantile(values, np.arange(1, buckets) / buckets)
    return tuple(float(cut) for cut in np.unique(cuts))


def write_numbers(path: str | Path, numbers: Sequence[Number]) -> None:
    """Write number transforms as JSON, whole or not at all."""
    path = Path(path)
    whole = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps([dataclasses.asdict(number) for number in numbers], indent=1)
    whole.write_text(text + "\n")
    whole.replace(path)


def read_numbers(path: str | Path) -> tuple[Number, ...]:
    """Read what `write_numbers` wrote.

    Raises:
        DataError: The file is missing or holds something else.
    """
    try:
        return tuple(Number(**fields) for fields in json.loads(Path(path).read_text()))
    except FileNotFoundError as error:
        raise DataError(f"file of numbers '{path}' is missing; is the path right?") from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"file of numbers '{path}' cannot be read: {error}; write it with write_numbers"
        ) from error


def _row_groups(dataset: Dataset, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Row groups in order, with their place for errors."""
    for column in columns:
        if column not in dataset.schema.names:
            raise DataError(
                f"data '{dataset.path}' has no column '{column}'; it has "
                f"{', '.join(map(repr, dataset.schema.names))}"
            )
    for group in dataset.row_groups:
        where = f"file '{group.file}', row group {group.index}"
        yield where, read_columns(group, set(columns))


def _located[T](where: str, run: Callable[[], T]) -> T:
    try:
        return run()
    except InvalidValue as error:
        raise DataError(
            f"{where}, row {error.row}, column '{error.column}': {error.problem}"
        ) from error
