"""Tables written for others to read: Parquet, NumPy or safetensors, with the original keys.

    parquet       <table>.parquet: id, key, trained, embedding (a list of floats)
    numpy         <table>.npy: [rows, width]; beside it <table>.keys.parquet: id, key, trained
    safetensors   tables.safetensors: every table under its name; beside it the same keys

Row ``id`` of an array is the row of that id.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.errors import DataError
from workers.safetensors import Stored, write_safetensors
from workers.saved_tables import SavedTable, SavedTables
from workers.table_keys import RowKeys

__all__ = ["FORMATS", "export_tables"]

type Format = Literal["parquet", "numpy", "safetensors"]
FORMATS = ("parquet", "numpy", "safetensors")

_ROW_GROUP_ROWS = 1 << 16


def export_tables(
    tables: SavedTables,
    names: Sequence[str],
    keys: Callable[[str], RowKeys],
    output: str,
    kind: Format,
) -> Path:
    """Write tables into a new folder, which is there whole or not at all.

    Memory: one table at a time, twice.

    Args:
        tables: A checkpoint's.
        names: Those to write.
        keys: Gives the keys of a table.
        output: The folder.
        kind: See above.

    Raises:
        DataError: The folder is there, or a table is not.
        CheckpointError: A table cannot be read.
    """
    target = Path(output).absolute()
    if target.exists():
        raise DataError(f"output '{output}' exists already: remove it, or name another folder")
    draft = target.with_name(f".{target.name}.exporting")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if kind == "safetensors":
        arrays = {
            name: Stored(
                tables.dtype(name), tables.shape(name), lambda name=name: tables.rows(name)
            )
            for name in names
        }
        step = {"step": str(tables.step)}
        write_safetensors(draft / "tables.safetensors", arrays, step)
    for name in names:
        saved = tables.read(name)
        described = _described(saved, keys(name))
        if kind == "parquet":
            described = described.append_column("embedding", _as_lists(saved.rows))
            _write(described, draft / f"{name}.parquet")
            continue
        if kind == "numpy":
            np.save(draft / f"{name}.npy", saved.rows)
        _write(described, draft / f"{name}.keys.parquet")
    draft.replace(target)
    return target


def _write(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, row_group_size=_ROW_GROUP_ROWS, write_page_checksum=True)


def _described(saved: SavedTable, keys: RowKeys) -> pa.Table:
    rows = len(saved.rows)
    columns: dict[str, Any] = {
        "id": pa.array(np.arange(rows, dtype=np.int64)),
        "key": pa.array([keys.of(row) for row in range(rows)], pa.string()),
    }
    if saved.trained is not None:
        columns["trained"] = pa.array(saved.trained)
    return pa.table(columns)


def _as_lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    values = rows.astype(np.float32) if rows.dtype.name == "bfloat16" else rows
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), rows.shape[1])
