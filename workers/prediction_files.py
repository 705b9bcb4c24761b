"""Parts of predictions as Parquet files, each there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.data.dataset import Dataset
from workers.prediction_data import pieces_of
from workers.prediction_protocol import part_name

__all__ = ["PartWriter", "whole_parts"]


class PartWriter:
    """Writes one part: the kept columns of its rows, with predictions beside them.

    Predictions come in batches and are written by the row groups of the data, so memory holds the
    kept columns of one row group, and its predictions. Use it as a context manager: the file gets
    its name at the end, if no error came before.

    Args:
        folder: Where parts go.
        part: Number of the part.
        dataset: The data.
        rows: The part's rows.
        keep: Columns to write beside the predictions.
    """

    def __init__(
        self, folder: Path, part: int, dataset: Dataset, rows: range, keep: Sequence[str]
    ) -> None:
        self._target = folder / part_name(part)
        self._draft = folder / f".{self._target.name}.{uuid.uuid4().hex}.partial"
        self._pieces: Iterator[tuple[int, pa.Table]] = pieces_of(dataset, rows, keep)
        self._rows = len(rows)
        self._waiting: list[dict[str, np.ndarray]] = []
        self._held = self._written = 0
        self._piece: tuple[int, pa.Table] | None = None
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        if error is not None:
            self._draft.unlink(missing_ok=True)
            return
        if self._written != self._rows:
            raise RuntimeError(f"{self._target.name}: {self._written} of {self._rows} rows")
        with self._draft.open("rb") as file:
            os.fsync(file.fileno())
        self._draft.replace(self._target)

    def add(self, columns: Mapping[str, np.ndarray], usable: np.ndarray) -> None:
        """Add the next rows.

        Args:
            columns: By name, ``[n]`` or ``[n, width]`` float32.
            usable: bool ``[n]``; the others have nulls for predictions.
        """
        self._waiting.append({**columns, "": usable})
        self._held += len(usable)
        while (piece := self._next_piece()) is not None and self._held >= piece[0]:
            self._write(*piece)
            self._piece = None

    def _next_piece(self) -> tuple[int, pa.Table] | None:
        if self._piece is None:
            self._piece = next(self._pieces, None)
        return self._piece

    def _write(self, count: int, kept: pa.Table) -> None:
        joined = {
            name: np.concatenate([batch[name] for batch in self._waiting])
            for name in self._waiting[0]
        }
        self._waiting = [{name: array[count:] for name, array in joined.items()}]
        self._held -= count
        unusable = ~joined.pop("")[:count]
        columns = [_as_arrow(array[:count], unusable) for array in joined.values()]
        table = pa.table([*kept.columns, *columns], names=[*kept.column_names, *joined])
        if self._file is None:
            self._file = pq.ParquetWriter(self._draft, table.schema, write_page_checksum=True)
        self._file.write_table(table, row_group_size=max(1, count))
        self._written += count


def _as_arrow(values: np.ndarray, absent: np.ndarray) -> pa.Array:
    """Numbers, or lists of as many numbers; null where they are absent."""
    if values.ndim == 1:
        return pa.array(values, mask=absent)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array(absent) if absent.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def whole_parts(folder: Path, rows: Mapping[int, int]) -> set[int]:
    """The parts that are there, with as many rows as they must have.

    Args:
        folder: Where parts go.
        rows: By part, how many it must have.
    """
    found = set()
    for part, count in rows.items():
        file = folder / part_name(part)
        try:
            if file.exists() and pq.read_metadata(file).num_rows == count:
                found.add(part)
        except (OSError, pa.ArrowException):  # damaged: it is made anew
            continue
    return found
