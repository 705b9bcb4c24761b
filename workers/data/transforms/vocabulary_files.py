"""Vocabulary files: a text file of one value a line, or one column of a Parquet file.

A text file is UTF-8; its lines end in LF or CRLF, and no line is empty. Value k, counted from 0,
has id k. Values that a line cannot hold (the empty string, or one with a line break) need Parquet.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.data.transforms.value_set import ValueSet
from workers.errors import DataError

__all__ = ["COUNT_COLUMN", "VALUE_COLUMN", "read_vocabulary", "write_vocabulary"]

VALUE_COLUMN = "value"
"""Column of the values in a Parquet file."""
COUNT_COLUMN = "count"
"""Column beside it: how often the value was seen."""


def read_vocabulary(
    path: str | Path, column: str = VALUE_COLUMN, *, integers: bool = False
) -> ValueSet:
    """Read a vocabulary file: Parquet if its name ends in ``.parquet``, otherwise text.

    Args:
        path: The file.
        column: Column of a Parquet file.
        integers: Take the lines of a text file for integers.

    Raises:
        DataError: The file is missing or damaged, or holds no list of distinct values.
    """
    path = Path(path)
    source = f"vocabulary file '{path}'"
    try:
        if path.suffix == ".parquet":
            return ValueSet(_parquet_column(path, column, source), source)
        lines = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing; is the path right?") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{source}, line {line}: no UTF-8; save the file as UTF-8") from error
    except (pa.ArrowException, IsADirectoryError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    if lines[-1] == "":  # behind the last line's end
        lines.pop()
    values = [line.removesuffix("\r") for line in lines]
    if "" in values:
        raise DataError(
            f"{source}, line {values.index('') + 1}: it is empty; leave it out, or write the "
            "vocabulary as Parquet if the empty string is a value"
        )
    if not integers:
        return ValueSet(pa.array(values, pa.large_string()), source)
    try:
        return ValueSet(pa.array(values, pa.large_string()).cast(pa.int64()), source)
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: a line is no 64-bit integer: {error}") from error


def _parquet_column(path: Path, column: str, source: str) -> pa.Array:
    schema = pq.read_schema(path)
    if column not in schema.names:
        raise DataError(
            f"{source} has no column '{column}'; it has {', '.join(map(repr, schema.names))}: name "
            "one with column="
        )
    array = pq.read_table(path, columns=[column]).column(column)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string(array.type):
        array = array.cast(pa.large_string())
    return array.combine_chunks()


def write_vocabulary(path: str | Path, values: ValueSet, counts: pa.Array | None = None) -> None:
    """Write a vocabulary file, which is there whole or not at all.

    Args:
        path: The file; Parquet if its name ends in ``.parquet``, otherwise text.
        values: What to write.
        counts: How often each was seen, kept in Parquet only.

    Raises:
        DataError: A text file cannot hold a value.
    """
    path = Path(path)
    whole = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.suffix == ".parquet":
        columns = {VALUE_COLUMN: values.values} | ({} if counts is None else {COUNT_COLUMN: counts})
        pq.write_table(pa.table(columns), whole)
    else:
        lines = values.values.cast(pa.large_string()).to_pylist()
        unfit = [line for line in lines if not line or "\n" in line or line.endswith("\r")]
        if unfit:
            raise DataError(
                f"vocabulary file '{path}': a line cannot hold {unfit[0]!r}; write Parquet: end "
                "the name in .parquet"
            )
        whole.write_bytes(("\n".join(lines) + "\n").encode())
    whole.replace(path)
