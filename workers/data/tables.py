"""Row groups of Parquet files and record batches of Arrow IPC files, as tables.

A record batch counts as a row group. Both are read whole, in the columns that are wanted, so a row
group should fit into memory several times over: 64 thousand rows are a good size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from workers.data.files import filesystem_of, is_arrow_file, reading
from workers.data.footers import Footers
from workers.errors import DataError

__all__ = ["Contents", "read_contents", "read_statistics", "read_table"]

_FOOTERS = Footers()
"""Shared by all datasets of the process."""


@dataclass(frozen=True)
class Contents:
    """What a file's metadata says: its columns, and the rows of every row group."""

    schema: pa.Schema
    rows: tuple[int, ...]


def read_contents(file: str) -> Contents:
    """Columns and row counts of a file.

    Raises:
        DataError: It is missing, or not what its name says.
    """
    where = f"file '{file}'"
    if is_arrow_file(file):
        with _arrow(file, where) as reader:
            return Contents(reader.schema, _batch_rows(file, where, reader))
    with _parquet(file, where) as parquet:
        metadata = parquet.metadata
        rows = tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
        return Contents(metadata.schema.to_arrow_schema(), rows)


def read_table(file: str, row_group: int, columns: Collection[str], rows: int) -> pa.Table:
    """Some columns of one row group, in the order of their names.

    Args:
        file: Path or address.
        row_group: Its number in the file.
        columns: Columns to read.
        rows: How many rows it had when the data was opened.

    Raises:
        DataError: It is missing or damaged, or has another number of rows now.
    """
    where = f"file '{file}', row group {row_group}"
    names = sorted(columns)
    if is_arrow_file(file):
        with _arrow(file, where) as reader:
            places = sorted(reader.schema.get_field_index(name) for name in names)
        with _arrow(file, where, places) as reader:
            batch = reader.get_batch(row_group)
            # Nothing in the format itself tells of flipped bytes, which could point anywhere.
            batch.validate(full=True)
            table = pa.Table.from_batches([batch]).select(names)
    else:
        with _parquet(file, where) as parquet:
            table = parquet.read_row_group(row_group, columns=names)
    table = _without_views(table)
    if names and table.num_rows != rows:
        raise DataError(f"{where} has {table.num_rows} rows, but had {rows} when it was opened")
    return table


def _without_views(table: pa.Table) -> pa.Table:
    """The same with string views as strings: Arrow cannot take rows of views."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    for place, field in enumerate(table.schema):
        if field.type in plain:
            kind = plain[field.type]
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


def read_statistics(file: str) -> Iterator[tuple[int, str, pq.Statistics]]:
    """Row group, column and statistics of every column chunk that has any."""
    if is_arrow_file(file):
        return
    with _parquet(file, f"file '{file}'") as parquet:
        metadata = parquet.metadata
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for column in (group.column(place) for place in range(group.num_columns)):
            if column.statistics is not None:
                yield index, column.path_in_schema, column.statistics


@contextmanager
def _parquet(file: str, where: str) -> Iterator[pq.ParquetFile]:
    filesystem, path = filesystem_of(file)
    with reading(where), filesystem.open_input_file(path) as source:
        version = _FOOTERS.version(file, filesystem.get_file_info(path))
        footer = _FOOTERS.get(version)
        with pq.ParquetFile(
            source, metadata=footer, pre_buffer=True, page_checksum_verification=True
        ) as parquet:
            if footer is None:
                _FOOTERS.keep(version, parquet.metadata)
            yield parquet


@contextmanager
def _arrow(
    file: str, where: str, columns: Collection[int] = ()
) -> Iterator[pyarrow.ipc.RecordBatchFileReader]:
    """A reader of some columns, by place; of all, where none are given."""
    filesystem, path = filesystem_of(file)
    options = pyarrow.ipc.IpcReadOptions(included_fields=list(columns), use_threads=False)
    with (
        reading(where, "Arrow IPC"),
        filesystem.open_input_file(path) as source,
        pyarrow.ipc.open_file(source, options=options) as reader,
    ):
        yield reader


def _batch_rows(
    file: str, where: str, reader: pyarrow.ipc.RecordBatchFileReader
) -> tuple[int, ...]:
    """Rows of every record batch, from its narrowest column: the footer does not tell."""
    widths = [
        field.type.bit_width if pa.types.is_primitive(field.type) else 1 << 20
        for field in reader.schema
    ]
    if not widths:
        return ()
    narrowest = min(range(len(widths)), key=widths.__getitem__)
    with _arrow(file, where, [narrowest]) as narrow:
        return tuple(narrow.get_batch(n).num_rows for n in range(narrow.num_record_batches))
