"""Tables of a finished or running run, read from its checkpoints on one machine, one at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from kernels import EmbeddingPlan, TableSpec
from workers.checkpoint import committed_steps
from workers.checksums import verify_files
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
    """The tables of one checkpoint, and the model that goes with them.

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
            # As Orbax writes it; its own reader would start a backend of JAX.
            about: dict[str, Any] = json.loads((place / "about" / "metadata").read_text())
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
        self.folder = place
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
        self.shape(name)
        spec = self._specs[name]
        rows = self.rows(name)
        try:
            return SavedTable(name, rows, self._trained(spec))
        except ValueError as error:
            raise CheckpointError(
                f"table '{name}' of checkpoint {self.step} cannot be read: {error}"
            ) from error

    def rows(self, name: str) -> np.ndarray:
        """The rows of a table alone, ``[vocabulary_size, embedding_dim]``.

        Raises:
            CheckpointError: They cannot be read.
        """
        try:
            return self._array(self._specs[name], "table")
        except ValueError as error:
            raise CheckpointError(
                f"table '{name}' of checkpoint {self.step} cannot be read: {error}"
            ) from error

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a table.

        Raises:
            DataError: There is no such table.
        """
        if name not in self._specs:
            raise DataError(f"there is no table '{name}'; there are {', '.join(self._specs)}")
        return self._specs[name].vocabulary_size, self._specs[name].embedding_dim

    def dtype(self, name: str) -> np.dtype:
        """Type of the values of a table.

        Raises:
            CheckpointError: It cannot be read.
        """
        try:
            stack = place_of(self.plan, name).stack.name
            return np.dtype(self._open(f"{stack}.table").dtype.numpy_dtype)
        except ValueError as error:
            raise CheckpointError(
                f"table '{name}' of checkpoint {self.step} cannot be read: {error}"
            ) from error

    def verify(self, share: int = 0, shares: int = 1) -> None:
        """Compare a share of the checkpoint's files with their checksums.

        Raises:
            CheckpointError: A file is damaged or missing.
        """
        verify_files(self.folder, share, shares)

    def parameters(self, like: Any) -> Any:
        """The model's parameters as numpy arrays.

        Args:
            like: Their shapes and types, in the structure that they are wanted in.

        Raises:
            CheckpointError: They cannot be read, or are of another model.
        """
        place = self.folder / "dense"
        try:
            with _without_its_warning(), ocp.PyTreeCheckpointer() as reader:
                tree = reader.metadata(place).item_metadata.tree
                numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                found = reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=numpy))
        except Exception as error:
            raise CheckpointError(f"checkpoint '{place}' cannot be read: {error}") from error
        arrays = _by_path(found.get("parameters") or {})
        wanted = _by_path(like)
        shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
        held = {name: tuple(array.shape) for name, array in arrays.items()}
        if shapes != held:
            name = next(n for n in {**shapes, **held} if shapes.get(n) != held.get(n))
            raise CheckpointError(
                f"checkpoint '{place}' holds another model: parameter {name} has the shape "
                f"{held.get(name)} there, and {shapes.get(name)} in the program; go back to the "
                "code and the parameters it was trained with"
            )
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])

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


@contextmanager
def _without_its_warning() -> Iterator[None]:
    """Orbax warns that a part of a checkpoint has no metadata of a whole one."""
    logger = logging.getLogger("absl")

    def wanted(record: logging.LogRecord) -> bool:
        return "_CHECKPOINT_METADATA" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by the names on the way to them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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
