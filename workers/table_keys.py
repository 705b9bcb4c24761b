"""The original values behind the rows of a table: what a transform made ids of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.data.dataset import Dataset, read_columns
from workers.data.transforms import (
    Buckets,
    Ids,
    IdTransform,
    Lists,
    Separated,
    Tags,
    TimePart,
    Vocabulary,
)
from workers.data.transforms.columns import is_list
from workers.data.transforms.separated import cut
from workers.program import Program

__all__ = ["RowKeys", "keys_of"]

SEPARATOR = " × "
"""Between the values of a combination."""


@dataclass(frozen=True)
class RowKeys:
    """Original values by row.

    Attributes:
        keys: By row, the values that have this id, the most frequent first; a row that no value
            has is missing.
        whole: Whether values that are hashed were looked for in all of the data.
    """

    keys: Mapping[int, tuple[str, ...]]
    whole: bool

    def of(self, row: int) -> str | None:
        """The most frequent value of a row; None if it has none."""
        found = self.keys.get(row)
        return found[0] if found else None

    def row_of(self, key: str) -> int | None:
        """The row of a value; None if no row has it."""
        return next((row for row, keys in self.keys.items() if key in keys), None)


def keys_of(program: Program, table: str, datasets: Iterable[Dataset]) -> RowKeys:
    """Find the values behind the rows of a table.

    Ids, parts of moments, ranges and values of a list are known without data. What was hashed is
    looked up in the data: its columns are read once, and every different value is hashed again.

    Args:
        program: The program.
        table: Name of one of its tables.
        datasets: Data to look in.
    """
    found: dict[int, dict[str, int]] = {}
    datasets = list(datasets)
    hashed = False
    for feature in program.features:
        if feature.table != table:
            continue
        known = _known(feature.transform)
        if known is None:
            hashed = True
            _look_up(feature.transform, datasets, found)
        else:
            for row, key in known.items():
                found.setdefault(row, {}).setdefault(key, 0)
    keys = {
        row: tuple(sorted(counts, key=lambda key: (-counts[key], key)))
        for row, counts in sorted(found.items())
    }
    return RowKeys(keys, not hashed or bool(datasets))


def _known(transform: IdTransform) -> dict[int, str] | None:
    """Values by id, where the transform itself tells them; None where it does not."""
    match transform:
        case Lists():
            return _known(transform.of)
        case Separated():
            return _known(transform.of)
        case Ids():
            return {row: str(row) for row in range(transform.size)}
        case TimePart():
            return {row: str(row) for row in range(transform.vocabulary_size)}
        case Vocabulary():
            return dict(enumerate(map(str, transform.values.values.to_pylist())))
        case Buckets():
            ends = ["-∞", *(f"{boundary:g}" for boundary in transform.boundaries), "∞"]
            return {row: f"[{ends[row]}, {ends[row + 1]})" for row in range(len(ends) - 1)}
    return None


def _look_up(
    transform: IdTransform, datasets: list[Dataset], found: dict[int, dict[str, int]]
) -> None:
    """Hash every different value of the data, and count it."""
    columns = sorted(transform.columns)
    for dataset in datasets:
        for group in dataset.row_groups:
            table = _atoms(transform, read_columns(group, columns).select(columns))
            grouped = table.group_by(columns, use_threads=False).aggregate([([], "count_all")])
            counts = grouped.column("count_all").to_pylist()
            values = grouped.select(columns)
            ids = transform.apply(_wrapped(transform, values))[:, 0]
            words = zip(*(values.column(name).to_pylist() for name in columns), strict=True)
            for row, word, count in zip(ids.tolist(), words, counts, strict=True):
                if row >= 0:
                    key = SEPARATOR.join(map(str, word))
                    own = found.setdefault(row, {})
                    own[key] = own.get(key, 0) + count


def _atoms(transform: IdTransform, table: pa.Table) -> pa.Table:
    """Rows of single values: those of lists one by one, without nulls."""
    if isinstance(transform, Separated):
        (column,) = transform.columns
        table = pa.table({column: cut(table.column(column), transform.separator)})
    arrays = {}
    for name in table.column_names:
        values = table.column(name)
        while is_list(values.type):
            values = pa.chunked_array([chunk.flatten() for chunk in values.chunks])
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        arrays[name] = values
    return pa.table(arrays).drop_null()


def _wrapped(transform: IdTransform, values: pa.Table) -> pa.Table:
    """Single values as the transform takes them: for lists, as lists of one."""
    if not isinstance(transform, Lists | Tags):
        return values
    (column,) = transform.columns
    array = values.column(column).combine_chunks()
    offsets = np.arange(len(array) + 1)
    return pa.table({column: pa.LargeListArray.from_arrays(pa.array(offsets), array)})
