"""Tables of a finished or running run, read from its checkpoints on one machine, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from kernels import EmbeddingPlan, TableSpec
from workers.checkpoint import committed_steps
from workers.errors import CheckpointError, DataError
from workers.program import Program
from workers.relayout import open_arrays, place_of

__all__ = ["SavedTable", "SavedTables", "TableFigures", "nearest_rows"]

BLOCK_ROWS = 1 << 18
"""Rows compared at a time."""


@dataclass(frozen=True)
class SavedTable:
    """A table as it was saved.

    Attributes:
        name: Of the table.
        rows: ``[vocabulary_size, embedding_dim]``.
        trained: Which rows a batch has ever changed, bool ``[vocabulary_size]``; None where the
            optimizer keeps nothing that would tell.
    """

    name: str
    rows: np.ndarray
    trained: np.ndarray | None

    def figures(self) -> TableFigures:
        """Norms and what was trained."""
        norms = np.linalg.norm(self.rows.astype(np.float32), axis=1)
        chosen = norms if self.trained is None else norms[self.trained]
        quantiles = np.quantile(chosen, [0, 0.5, 0.99, 1]) if chosen.size else np.full(4, np.nan)
        least, median, high, most = map(float, quantiles)
        return TableFigures(
            rows=self.rows.shape[0],
            width=self.rows.shape[1],
            trained=None if self.trained is None else int(self.trained.sum()),
            not_finite=int((~np.isfinite(self.rows)).any(axis=1).sum()),
            least=least,
            median=median,
            high=high,
            most=most,
        )


@dataclass(frozen=True)
class TableFigures:
    """What `tables describe` tells of a table.

    Attributes:
        rows: Its vocabulary.
        width: Its columns.
        trained: Rows that a batch has ever changed; None if not known. The others are dead.
        not_finite: Rows that hold NaN or infinity.
        least: Smallest norm of the rows that were trained.
        median: Likewise.
        high: Of 99 of 100 the norm is at most this.
        most: Largest norm.
    """

    rows: int
    width: int
    trained: int | None
    not_finite: int
    least: float
    median: float
    high: float
    most: float


class SavedTables:
    """The tables of one checkpoint.

    Args:
        run_folder: The run's folder.
        program: The program that was trained.
        step: The checkpoint's; None takes the newest.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be read.
        DataError: It is of another program.
    """

    def __init__(self, run_folder: Path, program: Program, step: int | None = None) -> None:
        folder = run_folder.absolute() / "checkpoints"
        steps = committed_steps(folder)
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint {step}"
            raise CheckpointError(
                f"'{folder}' holds {wanted}; it holds {', '.join(map(str, steps)) or 'none'}"
            )
        self.step = steps[-1] if step is None else step
        place = folder / str(self.step)
        try:
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
                about: dict[str, Any] = reader.restore(place / "about")
            self.plan = EmbeddingPlan.from_json(about["plan"])
            self._open = open_arrays(place / "tables")
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"checkpoint '{place}' cannot be read: {error}") from error
        if about["program"] != program.fingerprint():
            raise DataError(
                f"checkpoint '{place}' was saved by another program than '{program.name}' is now "
                f"(fingerprint {about['program']}, now {program.fingerprint()}): go back to the "
                "code it was trained with"
            )
        self._specs = {table.name: table for table in program.tables}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tables."""
        return tuple(self._specs)

    def read(self, name: str) -> SavedTable:
        """Read one table; memory: the table, and its slot variables one after another.

        Raises:
            DataError: There is no such table.
            CheckpointError: It cannot be read.
        """
        if name not in self._specs:
            raise DataError(f"there is no table '{name}'; there are {', '.join(self._specs)}")
        spec = self._specs[name]
        try:
            rows = self._array(spec, "table")
            trained = self._trained(spec)
        except ValueError as error:
            raise CheckpointError(
                f"table '{name}' of checkpoint {self.step} cannot be read: {error}"
            ) from error
        return SavedTable(name, rows, trained)

    def _array(self, spec: TableSpec, field: str) -> np.ndarray:
        """A field of the table's stack, in the rows and columns that are the table's."""
        place = place_of(self.plan, spec.name)
        array: ts.TensorStore = self._open(f"{place.stack.name}.{field}")
        columns = min(spec.embedding_dim, array.shape[1])
        result = np.empty((spec.vocabulary_size, columns), array.dtype.numpy_dtype)
        for first in range(min(place.sparsecores, spec.vocabulary_size)):
            start, count = place.position(first), len(range(first, len(result), place.sparsecores))
            part = array[start : start + count, :columns].read().result()
            result[first :: place.sparsecores] = part
        return result

    def _trained(self, spec: TableSpec) -> np.ndarray | None:
        """Rows one of whose slot variables is not what it was at the beginning."""
        assert spec.optimizer is not None
        slots: Any = spec.optimizer.slot_variables_initializers()
        changed: np.ndarray | None = None
        for name, initializer in zip(_names_of(slots), slots, strict=True):
            first = np.asarray(initializer(jax.random.key(0), (1, 1), np.float32)).item()
            differs = (self._array(spec, f"slot.{name}") != np.float32(first)).any(axis=1)
            changed = differs if changed is None else changed | differs
        return changed


def _names_of(slots: Any) -> Sequence[str]:
    """Names of slot variables in a checkpoint: those of a named tuple, or numbers."""
    return getattr(slots, "_fields", [str(place) for place in range(len(slots))])


def nearest_rows(table: SavedTable, row: int, count: int) -> list[tuple[int, float]]:
    """The rows whose vectors point in the direction nearest to that of one row.

    Rows that were never trained are passed over: they are where they began.

    Args:
        table: The table.
        row: The row's number.
        count: Most rows to give.

    Returns:
        Numbers and cosines, the nearest first; without the row itself.

    Raises:
        DataError: There is no such row, or it was never trained.
    """
    if not 0 <= row < len(table.rows):
        raise DataError(f"table '{table.name}' has rows 0 to {len(table.rows) - 1}, but none {row}")
    if table.trained is not None and not table.trained[row]:
        raise DataError(
            f"row {row} of table '{table.name}' was never trained, so its neighbours mean nothing"
        )
    wanted = _directions(table.rows[row : row + 1])[0]
    cosines = np.concatenate(
        [
            _directions(table.rows[first : first + BLOCK_ROWS]) @ wanted
            for first in range(0, len(table.rows), BLOCK_ROWS)
        ]
    )
    usable = np.isfinite(cosines) if table.trained is None else table.trained.copy()
    usable[row] = False
    cosines = np.where(usable & np.isfinite(cosines), cosines, -np.inf)
    order = np.argsort(-cosines, kind="stable")[:count]
    return [(int(one), float(cosines[one])) for one in order if np.isfinite(cosines[one])]


def _directions(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
