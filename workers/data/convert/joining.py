"""Side tables joined to a data set: what is known of users, items and the like.

    ratings: user, item, rating          user, item, rating, age, genres
    users:   user, age              ─►   (one row for each of the ratings)
    items:   item, genres

Side tables are held in memory; the data is read and written a row group at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from workers.data.dataset import open_dataset, read_columns
from workers.data.sources import has_split
from workers.data.transforms.columns import is_hashable, plain
from workers.errors import DataError

__all__ = ["Joined", "SideTable", "join", "read_side_table"]

_ROWS_PER_FILE = 1 << 20


@dataclass(frozen=True)
class SideTable:
    """A table with one row for each value of a key.

    Attributes:
        file: Where it is from.
        key: Column in the data and in the table.
        table: Its rows.
    """

    file: str
    key: str
    table: pa.Table


@dataclass(frozen=True)
class Joined:
    """What a join came to.

    Attributes:
        folder: The output.
        rows: Rows written.
        columns: Columns that were added.
        without: By key, how many rows have none in its side table: their new columns are null.
    """

    folder: Path
    rows: int
    columns: tuple[str, ...]
    without: dict[str, int]


def read_side_table(file: str, key: str) -> SideTable:
    """Read a side table: Parquet, or text with a header (comma, tab, semicolon or ``|``).

    Raises:
        DataError: It cannot be read, or the key is missing, null, or there twice.
    """
    path = Path(file)
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            with path.open(encoding="utf-8-sig") as lines:
                head = lines.readline()
            delimiter = max((",", "\t", ";", "|"), key=head.count)
            options = pyarrow.csv.ParseOptions(delimiter=delimiter)
            # An empty string is no value, in a column of strings as in one of numbers.
            convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
            table = pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DataError(f"side table '{file}' cannot be read: {error}") from error
    if key not in table.column_names:
        raise DataError(
            f"side table '{file}' has no column '{key}' to join on; it has "
            f"{', '.join(map(repr, table.column_names))}"
        )
    values = table.column(key)
    if values.null_count or len(values.unique()) < len(values):
        raise DataError(
            f"side table '{file}': column '{key}' is "
            + ("null in a row" if values.null_count else "not different in every row")
            + "; give one row for each value"
        )
    return SideTable(file, key, table)


def join(data: str, sides: Sequence[SideTable], output: str) -> Joined:
    """Write the data with the columns of side tables beside its own.

    A column that is there already gets the key before its name. The output is there whole or not
    at all; folders ``train`` and ``test`` stay.

    Args:
        data: Parquet: see ``workers.data.files``.
        sides: What to join.
        output: A folder that does not exist yet.

    Raises:
        DataError: The data cannot be read, a key is missing or of another type, or the output is
            there.
    """
    target = Path(output).absolute()
    if target.exists():
        raise DataError(f"output '{output}' exists already: remove it, or name another folder")
    drafts = target.with_name(f".{target.name}.joining")
    shutil.rmtree(drafts, ignore_errors=True)
    splits = ("train", "test") if has_split(data, "test") else ("train",)
    without, rows, added = {side.key: 0 for side in sides}, 0, ()
    for split in splits:
        folder = drafts / split if len(splits) > 1 else drafts
        folder.mkdir(parents=True)
        dataset = open_dataset(data, split)
        writer: pq.ParquetWriter | None = None
        file = -1
        try:
            for number, group in enumerate(dataset.row_groups):
                table = read_columns(group, dataset.schema.names).select(dataset.schema.names)
                before = len(table.column_names)
                for side in sides:
                    table, missing = _with_side(table, side)
                    without[side.key] += missing
                added = tuple(table.column_names[before:])
                if writer is None or group.first_row // _ROWS_PER_FILE != file:
                    if writer is not None:
                        writer.close()
                    file = group.first_row // _ROWS_PER_FILE
                    name = f"part-{number:05d}.parquet"
                    writer = pq.ParquetWriter(folder / name, table.schema, write_page_checksum=True)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                rows += table.num_rows
        finally:
            if writer is not None:
                writer.close()
    drafts.replace(target)
    return Joined(target, rows, added, without)


def _with_side(table: pa.Table, side: SideTable) -> tuple[pa.Table, int]:
    """A table with the columns of a side table, and how many rows have none there."""
    if side.key not in table.column_names:
        raise DataError(
            f"side table '{side.file}' is to be joined on '{side.key}', but the data has only "
            f"{', '.join(map(repr, table.column_names))}"
        )
    ours, theirs = table.column(side.key), side.table.column(side.key)
    ours, theirs = ours.cast(plain(ours.type)), theirs.cast(plain(theirs.type))
    same = pa.types.is_integer(ours.type) == pa.types.is_integer(theirs.type)
    if not (same and is_hashable(ours.type) and is_hashable(theirs.type)):
        raise DataError(
            f"side table '{side.file}' has '{side.key}' of type {theirs.type}, but the data has "
            f"{ours.type}: convert one of them"
        )
    common = pa.int64() if pa.types.is_integer(ours.type) else pa.large_string()
    compute: Any = pc
    places = compute.index_in(ours.cast(common), theirs.cast(common).combine_chunks())
    for name in side.table.column_names:
        if name == side.key:
            continue
        column = side.table.column(name).take(places)
        new = name if name not in table.column_names else f"{side.key}_{name}"
        if new in table.column_names:
            raise DataError(
                f"side table '{side.file}': both '{name}' and '{new}' are columns of the data "
                "already; rename it"
            )
        table = table.append_column(new, column)
    return table, places.null_count
