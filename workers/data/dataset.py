"""Parquet files as one sequence of rows, and examples taken from it by row id.

A dataset is a folder with a subfolder per split (``train``, ``test``), or a folder of Parquet files
or a single file, which then is the ``train`` split. Only metadata is read on opening.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.data.examples import Examples, Schema
from workers.data.order import PADDING_ROW
from workers.data.transforms import Ids, InvalidValue
from workers.errors import DataError

__all__ = [
    "Dataset",
    "ExampleReader",
    "RowGroup",
    "check_dataset",
    "has_split",
    "open_dataset",
    "read_row_group",
    "reading",
]

CACHE_BYTES = 1 << 30
"""Memory a reader may use for row groups it has read and transformed."""


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file."""

    file: Path
    index: int
    rows: int
    first_row: int
    """Row id of its first row."""


@dataclass(frozen=True)
class Dataset:
    """The row groups of one split, in the order of the file names."""

    path: Path
    split: str
    row_groups: tuple[RowGroup, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return sum(group.rows for group in self.row_groups)


def open_dataset(path: str | Path, split: str, columns: Collection[str] | None = None) -> Dataset:
    """Read the metadata of a split.

    Args:
        path: Folder or file.
        split: ``train`` or ``test``.
        columns: Columns that must have the same type in all files; all by default. Files without
            rows are passed over.

    Raises:
        DataError: Nothing is there, a file cannot be read, or types differ between files.
    """
    root = Path(path)
    groups: list[RowGroup] = []
    first: tuple[Path, pa.Schema] | None = None
    row = 0
    for file in _files(root, split):
        with reading(f"file '{file}'"):
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
        if not metadata.num_rows:
            continue
        if first is None:
            first = file, schema
        _compare(first, (file, schema), columns)
        for index in range(metadata.num_row_groups):
            rows = metadata.row_group(index).num_rows
            if rows:
                groups.append(RowGroup(file, index, rows, row))
            row += rows
    if first is None:
        raise DataError(f"the '{split}' split of '{root}' has no rows")
    return Dataset(root, split, tuple(groups), first[1])


def has_split(path: str | Path, split: str) -> bool:
    """Whether the data has files for a split."""
    try:
        return bool(_files(Path(path), split))
    except DataError:
        return False


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what content or absence of a file raise into DataError.

    An error of the storage itself (it has an error number) is let through: it may pass.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing: {error}") from error
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{what} cannot be read as Parquet: {error}") from error


def _files(root: Path, split: str) -> list[Path]:
    if not root.exists():
        raise DataError(f"data '{root}' does not exist")
    if (root / "test").is_dir() and not (root / "train").is_dir():
        raise DataError(
            f"data '{root}' has a folder 'test' but none named 'train'; rename the one to train on"
        )
    if root.is_file():
        files = [root] if split == "train" else []
    elif (root / "train").is_dir():
        files = _parquet_files(root / split)
    else:
        files = _parquet_files(root) if split == "train" else []
    if not files:
        raise DataError(f"data '{root}' has no Parquet files for the '{split}' split")
    return files


def _parquet_files(folder: Path) -> list[Path]:
    """Files below a folder, but for those that writers hide: names that begin with _ or a dot."""
    found = sorted(folder.rglob("*.parquet"))
    return [
        file
        for file in found
        if file.is_file()
        and not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    ]


def _compare(
    first: tuple[Path, pa.Schema], second: tuple[Path, pa.Schema], columns: Collection[str] | None
) -> None:
    """Raise DataError if columns in use have another type in the second file."""
    ours, theirs = (
        {
            field.name: str(field.type)
            for field in schema
            if columns is None or field.name in columns
        }
        for _, schema in (first, second)
    )
    changed = [
        f"'{name}' is {theirs.get(name, 'missing')}, not {ours.get(name, 'missing')}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if changed:
        raise DataError(
            f"file '{second[0]}' has other columns than '{first[0]}': {'; '.join(changed)}"
        )


def check_dataset(dataset: Dataset, schema: Schema) -> None:
    """Check columns, types, and whatever the statistics in the metadata tell of nulls and ids.

    Raises:
        DataError: With file, row group and column where the statistics show a bad value.
    """
    try:
        schema.check(dataset.schema)
    except DataError as error:
        raise DataError(f"data '{dataset.path}', split '{dataset.split}': {error}") from error
    vocabularies = {
        transform.column: transform.size
        for _, transform in schema.features
        if isinstance(transform, Ids)
    }
    for file in dict.fromkeys(group.file for group in dataset.row_groups):
        metadata = pq.read_metadata(file)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            for column in (group.column(place) for place in range(group.num_columns)):
                name = column.path_in_schema
                if name in schema.columns and column.statistics is not None:
                    problem = _problem(
                        column.statistics, vocabularies.get(name), name in schema.nullable
                    )
                    if problem:
                        raise DataError(
                            f"file '{file}', row group {index}, column '{name}': {problem}"
                        )


def _problem(statistics: pq.Statistics, vocabulary: int | None, nullable: bool) -> str | None:
    """What is wrong with a column chunk, as far as its statistics tell."""
    if statistics.null_count and not nullable:
        return f"{statistics.null_count} null values; fill them, or leave the rows out"
    if vocabulary is not None and statistics.has_min_max:
        for value in (statistics.min, statistics.max):
            if not 0 <= value < vocabulary:
                return (
                    f"id {value} is outside the vocabulary [0, {vocabulary}); raise the "
                    "vocabulary or hash the column"
                )
    return None


class ExampleReader:
    """Takes examples by row id; keeps transformed row groups in bounded memory.

    Args:
        dataset: Where the rows are.
        schema: How columns become examples.
        cache_bytes: Memory for row groups; the one in use is kept in any case.
    """

    def __init__(self, dataset: Dataset, schema: Schema, cache_bytes: int = CACHE_BYTES) -> None:
        self._dataset = dataset
        self._schema = schema
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, Examples] = OrderedDict()
        self._first_rows = np.array([group.first_row for group in dataset.row_groups], np.int64)

    def take(self, rows: np.ndarray) -> Examples:
        """The examples with these row ids, in this order; padding rows get weight 0.

        Args:
            rows: int64 ``[n]``.

        Raises:
            DataError: A value cannot be used: with file, row group, row and column.
        """
        result = self._schema.empty(len(rows))
        places = np.flatnonzero(rows != PADDING_ROW)
        group_of = np.searchsorted(self._first_rows, rows[places], side="right") - 1
        by_group = np.argsort(group_of, kind="stable")
        places, group_of = places[by_group], group_of[by_group]
        bounds = np.flatnonzero(np.diff(group_of, prepend=-1, append=-1))
        for first, last in pairwise(bounds.tolist()):
            number = int(group_of[first])
            targets = places[first:last]
            offsets = rows[targets] - self._first_rows[number]
            result.put(targets, self._row_group(number), offsets)
        return result

    def _row_group(self, number: int) -> Examples:
        found = self._cached.get(number)
        if found is not None:
            self._cached.move_to_end(number)
            return found
        loaded = read_row_group(self._dataset.row_groups[number], self._schema)
        self._cached[number] = loaded
        while self._size() > self._cache_bytes and len(self._cached) > 1:
            self._cached.popitem(last=False)
        return loaded

    def _size(self) -> int:
        return sum(examples.nbytes for examples in self._cached.values())


def read_row_group(group: RowGroup, schema: Schema) -> Examples:
    """Read one row group and transform it.

    Raises:
        DataError: The page is damaged or a value cannot be used.
    """
    where = f"file '{group.file}', row group {group.index}"
    with reading(where), pq.ParquetFile(group.file) as file:
        table = file.read_row_group(group.index, columns=sorted(schema.columns))
    try:
        return schema.apply(table)
    except InvalidValue as error:
        raise DataError(
            f"{where}, row {error.row}, column '{error.column}': {error.problem}"
        ) from error
