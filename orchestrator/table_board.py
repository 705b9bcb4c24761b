"""Tables for TensorBoard: histograms of the norms of their rows, and the rows for its projector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from tensorboardX import SummaryWriter

from workers.saved_tables import SavedTable
from workers.table_keys import RowKeys

__all__ = ["TableBoard", "chosen_rows"]


def chosen_rows(table: SavedTable, most: int) -> np.ndarray:
    """Numbers of the rows to look at: those that were trained, and of too many the longest.

    Args:
        table: The table; rows that are not finite are left out.
        most: So many rows at most.

    Returns:
        int64, rising.
    """
    norms = _norms(table)
    wanted = np.isfinite(norms)
    if table.trained is not None:
        wanted &= table.trained
    (rows,) = np.nonzero(wanted)
    if len(rows) > most:
        rows = rows[np.argsort(-norms[rows], kind="stable")[:most]]
    return np.sort(rows)


class TableBoard:
    """Writes tables of one checkpoint below a folder that TensorBoard reads.

    What is written again, of the same step, takes the place of what was there.

    Args:
        folder: The folder; made if it is missing.
        step: Steps done by the checkpoint.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._step = folder, step
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.close()

    def histogram(self, table: SavedTable) -> None:
        """Norms of all rows that were trained, as ``row_norms/<table>``."""
        norms = _norms(table)[chosen_rows(table, len(table.rows))]
        if norms.size:
            self._writer.add_histogram(f"row_norms/{table.name}", norms, self._step)

    def projection(self, table: SavedTable, keys: Callable[[str], RowKeys], most: int) -> int:
        """The rows and their original values, for the projector.

        Args:
            table: The table.
            keys: Finds the original values behind the rows of a table.
            most: So many rows at most.

        Returns:
            How many rows were written.
        """
        rows, known = chosen_rows(table, most), keys(table.name)
        place = self._folder / f"{self._step}" / table.name
        place.mkdir(parents=True, exist_ok=True)
        np.savetxt(place / "rows.tsv", table.rows[rows].astype(np.float32), "%.6g", "\t")
        with (place / "values.tsv").open("w", encoding="utf-8") as file:
            file.write("row\tvalue\n")
            for row in rows.tolist():
                value = " ".join((known.of(row) or "").split())
                file.write(f"{row}\t{value}\n")
        self._write_config()
        return len(rows)

    def _write_config(self) -> None:
        """Tell the projector of every table that is there."""
        places = sorted(file.parent.relative_to(self._folder) for file in self._tables())
        entries = [
            f'embeddings {{\n  tensor_name: "{place.name} after step {place.parent}"\n'
            f'  tensor_path: "{place}/rows.tsv"\n  metadata_path: "{place}/values.tsv"\n}}\n'
            for place in places
        ]
        text = "".join(entries)
        (self._folder / "projector_config.pbtxt").write_text(text, encoding="utf-8")

    def _tables(self) -> list[Path]:
        return list(self._folder.glob("*/*/rows.tsv"))


def _norms(table: SavedTable) -> np.ndarray:
    return np.linalg.norm(table.rows.astype(np.float32), axis=1)
