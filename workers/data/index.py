"""What the driver has found in the footers of all files, in one small file for all hosts.

The footers say which row groups there are and how many rows each has. With thousands of files they
take long to read, and if every host did, the storage would be asked a thousand times for each. So
the driver, which has to read them in any case, writes down what they say. A host reads that, and
later the footers of those files alone that its own rows are in.

    data-index.arrow in the run's folder, Arrow IPC, compressed
        schema metadata   splits: JSON, names of files and values of their partitions
                          columns: JSON, Arrow schemas
        rows              one for each row group: split, file, index, rows, first row, and of those
                          that are cut in two: all rows, and the number of the first of them

Addresses, which may hold credentials, are not in it. A host takes it only if its SHA-256 is the one
that the driver named. Then it looks into a few of the files itself, others than the other hosts do,
to see that its own files are those of the driver. Of all others, the number of rows is compared
when they are read.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from workers.data.dataset import Dataset, RowGroup
from workers.data.holdout import Holdout, Part
from workers.data.synthetic import is_synthetic
from workers.data.tables import read_contents
from workers.data.waiting_together import in_order
from workers.errors import DataError

__all__ = ["INDEX", "DataIndex", "IndexedSplit", "check_files", "read_index", "write_index"]

INDEX = "data-index.arrow"
"""Name of the file in the run's folder."""

LOOKED_INTO = 16
"""Files whose footers a host compares with the index: as many as are read at a time."""

_LOGGER = logging.getLogger(__name__)
_NUMBERS = ("split", "file", "index", "rows", "first_row", "part_rows", "part_first_row")
_NONE = -1


@dataclass(frozen=True)
class IndexedSplit:
    """What an index leaves out of a split.

    Attributes:
        name: ``train`` or ``test``.
        path: The data as errors name it.
        before: What comes before the names of its files; the whole address where that is one file.
        behind: What comes after them: options of the address.
    """

    name: str
    path: str = field(repr=False)
    before: str = field(repr=False)
    behind: str = field(repr=False)

    def address(self, name: str) -> str:
        """Path or address of the file of this name."""
        return self.before if name == "." else f"{self.before}{name}{self.behind}"


@dataclass(frozen=True)
class DataIndex:
    """What hosts are told of an index.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal digits.
        splits: The splits it tells of.
    """

    digest: str
    splits: tuple[IndexedSplit, ...]


def write_index(folder: Path, datasets: Mapping[str, Dataset]) -> DataIndex | None:
    """Write down what the metadata of some splits says.

    Args:
        folder: The run's folder.
        datasets: The splits by name, as ``open_dataset`` found them.

    Returns:
        What the hosts must be told; None, with nothing written, for data that is made up.
    """
    if not datasets or any(is_synthetic(data.path) for data in datasets.values()):
        return None
    told, splits, schemas, numbers = [], [], [], []
    for place, (name, data) in enumerate(datasets.items()):
        told.append(_left_out(name, data))
        files: dict[str, int] = {}
        described = []
        for group in data.row_groups:
            file = str(group.file)
            if file not in files:
                if told[-1].address(group.name) != file:
                    return None
                files[file] = len(files)
                values = [[key, str(v.type), v.as_py()] for key, v in group.constants]
                described.append([group.name, values])
            part = group.part
            cut = (_NONE, _NONE) if part is None else (part.rows, part.first_row)
            numbers.append((place, files[file], group.index, group.rows, group.first_row, *cut))
        splits.append(described)
        schemas.append(base64.b64encode(data.schema.serialize().to_pybytes()).decode())
    columns = np.array(numbers, np.int64).reshape(-1, len(_NUMBERS)).T
    about = {"splits": json.dumps(splits), "columns": json.dumps(schemas)}
    table = pa.table(dict(zip(_NUMBERS, map(pa.array, columns), strict=True)))
    table = table.replace_schema_metadata(about)
    out = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_file(out, table.schema, options=options) as writer:
        writer.write_table(table)
    content = out.getvalue()
    draft = folder / f".{INDEX}.new"
    draft.write_bytes(content)
    draft.replace(folder / INDEX)
    return DataIndex(hashlib.sha256(content).hexdigest(), tuple(told))


def read_index(
    folder: Path, told: DataIndex | None, holdout: Holdout | None = None
) -> dict[str, Dataset] | None:
    """The splits that the driver has written down.

    Args:
        folder: The run's folder.
        told: What ``write_index`` returned.
        holdout: Rows of the run that are held out.

    Returns:
        The splits by name, as ``open_dataset`` would find them. None if there is no such file, so
        that the data must be opened.
    """
    if told is None:
        return None
    try:
        content = (folder / INDEX).read_bytes()
    except OSError as error:
        _LOGGER.warning("the data is opened file by file, as its index cannot be read: %s", error)
        return None
    if hashlib.sha256(content).hexdigest() != told.digest:
        _LOGGER.warning(
            "the data is opened file by file, as '%s' is not the index that the driver wrote",
            folder / INDEX,
        )
        return None
    table = pyarrow.ipc.open_file(pa.BufferReader(content)).read_all()
    about = table.schema.metadata
    files = [
        [(split.address(name), name, _constants(values)) for name, values in described]
        for split, described in zip(told.splits, json.loads(about[b"splits"]), strict=True)
    ]
    groups: list[list[RowGroup]] = [[] for _ in files]
    columns = [table.column(name).to_pylist() for name in _NUMBERS]
    for split, place, index, rows, first_row, part_rows, part_first in zip(*columns, strict=True):
        file, name, constants = files[split][place]
        part = None
        if part_rows != _NONE and holdout is not None:
            part = Part(holdout, told.splits[split].name == "test", part_rows, part_first)
        groups[split].append(RowGroup(file, index, rows, first_row, name, constants, part))
    schemas = [
        pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
        for text in json.loads(about[b"columns"])
    ]
    return {
        split.name: Dataset(split.path, split.name, tuple(own), schema)
        for split, own, schema in zip(told.splits, groups, schemas, strict=True)
    }


def check_files(datasets: Mapping[str, Dataset], host: int, hosts: int) -> None:
    """Look into some files, to see that this host's are those that the index tells of.

    Args:
        datasets: The splits, from the index.
        host: Rank of this host. The hosts together look into as many files as they can.
        hosts: Number of hosts.

    Raises:
        DataError: One is missing, or has other row groups.
    """
    rows: dict[str, dict[int, int]] = {}
    for data in datasets.values():
        for group in data.row_groups:
            whole = group.rows if group.part is None else group.part.rows
            rows.setdefault(str(group.file), {})[group.index] = whole
    own = files_of_host(sorted(rows), host, hosts)
    for file, contents in zip(own, in_order(read_contents, own), strict=True):
        found = {index: count for index, count in enumerate(contents.rows) if count}
        differing = [index for index, count in rows[file].items() if found.get(index) != count]
        # Row groups none of whose rows belong to a split are not in the index.
        if differing or (not _is_cut(datasets) and found.keys() != rows[file].keys()):
            raise DataError(
                f"host {host} sees other data than the driver: file '{file}' has row groups of "
                f"{list(found.values())[:5]}… rows, the driver's of "
                f"{list(rows[file].values())[:5]}…; make sure that the data's path holds the same "
                "files on every machine"
            )


def files_of_host(files: Sequence[str], host: int, hosts: int) -> list[str]:
    """The files that a host looks into: all where they are few, else some of its own."""
    most = min(LOOKED_INTO, len(files))
    start = host * max(most, len(files) // hosts)
    return [files[(start + number) % len(files)] for number in range(most)]


def _left_out(name: str, data: Dataset) -> IndexedSplit:
    first = data.row_groups[0]
    file = str(first.file)
    if first.name == ".":
        return IndexedSplit(name, str(data.path), file, "")
    before, _, behind = file.rpartition(first.name)
    return IndexedSplit(name, str(data.path), before, behind)


def _is_cut(datasets: Mapping[str, Dataset]) -> bool:
    return any(group.part is not None for data in datasets.values() for group in data.row_groups)


def _constants(values: list[list[Any]]) -> tuple[tuple[str, pa.Scalar], ...]:
    kinds = {"int64": pa.int64(), "string": pa.string()}
    return tuple((key, pa.scalar(value, kinds[kind])) for key, kind, value in values)
