"""The files of a split as one sequence of rows, one row group at a time.

``workers.data.files`` says which files those are. Only metadata is read on opening.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.data.examples import Examples, Schema
from workers.data.files import DataFile, files_of, partition_types, reading
from workers.data.holdout import Part
from workers.data.quarantine import BadRow, Quarantine, apply_to_good_rows
from workers.data.tables import read_contents, read_statistics, read_table
from workers.data.transforms import Ids, InvalidValue
from workers.data.waiting_together import in_order
from workers.errors import DataError

__all__ = [
    "Dataset",
    "RowGroup",
    "check_dataset",
    "has_split",
    "open_dataset",
    "read_columns",
    "read_row_group",
    "reading",
]


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file."""

    file: str | Path
    """Path or address."""
    index: int
    rows: int
    first_row: int
    """Row id of its first row."""
    name: str = ""
    """The file's name below the data."""
    constants: tuple[tuple[str, pa.Scalar], ...] = ()
    """Columns whose value is the same in the whole file: those of its hive partition."""
    part: Part | None = None
    """The rows of it that count, where some are held out; None: all of them."""


@dataclass(frozen=True)
class Dataset:
    """The row groups of one split, in the order of the file names."""

    path: str | Path
    split: str
    row_groups: tuple[RowGroup, ...]
    schema: pa.Schema
    """Columns of the files, then those of the hive partitions."""

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return sum(group.rows for group in self.row_groups)


def open_dataset(path: str | Path, split: str, columns: Collection[str] | None = None) -> Dataset:
    """Read the metadata of a split.

    Args:
        path: Folder, file, glob or address: see ``workers.data.files``.
        split: ``train`` or ``test``.
        columns: Columns that must have the same type in all files; all by default. Files without
            rows are passed over.

    Raises:
        DataError: Nothing is there, a file cannot be read, or types differ between files.
    """
    root, files = files_of(str(path), split)
    if not files:
        raise DataError(
            f"data '{path}' has no Parquet files for the '{split}' split, nor Arrow ones; CSV and "
            "TSV files are converted with `python -m orchestrator data convert`"
        )
    types = partition_types(files)
    groups: list[RowGroup] = []
    first: tuple[str, pa.Schema] | None = None
    row = 0
    every = in_order(read_contents, [file.file for file in files])
    for file, contents in zip(files, every, strict=True):
        if not sum(contents.rows):
            continue
        constants = _constants(file, contents.schema, types)
        schema = contents.schema
        for name, value in constants:
            schema = schema.append(pa.field(name, value.type))
        _check_names(file.file, schema, columns)
        first = first or (file.file, schema)
        _compare(first, (file.file, schema), columns)
        for index, rows in enumerate(contents.rows):
            if rows:
                groups.append(RowGroup(file.file, index, rows, row, file.name, constants))
            row += rows
    if first is None:
        raise DataError(f"the '{split}' split of '{path}' has no rows")
    return Dataset(root, split, tuple(groups), first[1])


def has_split(path: str | Path, split: str) -> bool:
    """Whether the data has files for a split."""
    try:
        return bool(files_of(str(path), split)[1])
    except DataError:
        return False


def _constants(
    file: DataFile, schema: pa.Schema, types: dict[str, pa.DataType]
) -> tuple[tuple[str, pa.Scalar], ...]:
    """The partition columns that the file itself has not got."""
    return tuple(
        (key, pa.scalar(value, pa.string()).cast(types[key]))
        for key, value in file.partition
        if key not in schema.names
    )


def _check_names(file: str, schema: pa.Schema, columns: Collection[str] | None) -> None:
    """Raise DataError if several columns in use have the same name."""
    counts = Counter(name for name in schema.names if columns is None or name in columns)
    twice = ", ".join(f"'{name}' {count} times" for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(f"file '{file}' has columns of the same name ({twice}): rename them")


def _compare(
    first: tuple[str, pa.Schema], second: tuple[str, pa.Schema], columns: Collection[str] | None
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


def check_dataset(dataset: Dataset, schema: Schema, *, values: bool = True) -> None:
    """Check columns, types, and whatever the statistics in the metadata tell of nulls and ids.

    Args:
        dataset: The data.
        schema: How columns become examples.
        values: Whether bad values are refused already; False where rows may be quarantined.

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
    if not values:
        return

    def first_problem(file: str) -> str | None:
        for index, name, statistics in read_statistics(file):
            if name not in columns:
                continue
            problem = _problem(statistics, vocabularies.get(name), name in nullable)
            if problem:
                return f"file '{file}', row group {index}, column '{name}': {problem}"
        return None

    columns, nullable = schema.columns, schema.nullable
    files = dict.fromkeys(str(group.file) for group in dataset.row_groups)
    for problem in in_order(first_problem, files):
        if problem:
            raise DataError(problem)


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


def read_columns(group: RowGroup, columns: Collection[str]) -> pa.Table:
    """Some columns of a row group, those of its hive partition too.

    Raises:
        DataError: The file is missing or damaged.
    """
    return _read_rows(group, columns)[0]


def _read_rows(group: RowGroup, columns: Collection[str]) -> tuple[pa.Table, np.ndarray | None]:
    """Columns of a row group's rows, and their numbers in the file's row group (None: all)."""
    read = set(columns) if group.part is None else {*columns, *group.part.columns}
    rows = group.rows if group.part is None else group.part.rows
    constants = {name: value for name, value in group.constants if name in read}
    wanted: Sequence[str] = [name for name in read if name not in constants]
    table = read_table(str(group.file), group.index, wanted, rows)
    for name, value in constants.items():
        table = table.append_column(name, pa.repeat(value, rows))
    if group.part is None:
        return table, None
    places = group.part.places(table)
    return table.select(sorted(columns)).take(pa.array(places)), places


def read_row_group(
    group: RowGroup, schema: Schema, quarantine: Quarantine | None = None
) -> Examples:
    """Read one row group and transform it.

    Args:
        group: Where the rows are.
        schema: How columns become examples.
        quarantine: Takes bad rows, which then are examples of weight 0; None refuses them.

    Raises:
        DataError: The file is missing or damaged, a value cannot be used, or more are bad than the
            quarantine takes.
    """
    where = f"file '{group.file}', row group {group.index}"
    split = None if group.part is None else group.part.split
    try:
        table, places = _read_rows(group, schema.columns)
    except DataError as error:
        if quarantine is None or isinstance(error.__cause__, FileNotFoundError):
            raise
        bad = BadRow(None, None, str(error.__cause__ or error), group.rows)
        quarantine.add(str(group.file), group.index, [bad], split)
        return schema.empty(group.rows)
    if quarantine is None:
        try:
            return schema.apply(table)
        except InvalidValue as error:
            row = error.row if places is None else places[error.row]
            raise DataError(
                f"{where}, row {row}, column '{error.column}': {error.problem}"
            ) from error
    examples, found = apply_to_good_rows(schema, table, quarantine.most)
    if found:
        quarantine.add(str(group.file), group.index, _in_file(found, places), split)
    return examples


def _in_file(bad: list[BadRow], places: np.ndarray | None) -> list[BadRow]:
    """The same with the numbers that the rows have in the file."""
    if places is None:
        return bad
    return [replace(one, row=int(places[one.row])) for one in bad if one.row is not None]
