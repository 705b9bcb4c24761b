"""What every table of a plan takes, and how much of that is padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kernels import EmbeddingPlan

__all__ = ["TableFigures", "rows_imbalance", "table_figures"]

_FLOAT = 4


@dataclass(frozen=True)
class TableFigures:
    """One table; bytes are those of all devices together, padding included."""

    name: str
    stack: str
    rows: int
    padded_rows: int
    """A multiple of 8 times the SparseCores."""
    width: int
    padded_width: int
    """The width of its stack, a multiple of 8."""
    table: int
    slots: int
    padding: int
    """Of table and slots, what no id reads."""

    @property
    def padded_share(self) -> float:
        """Share of table and slots that is padding."""
        return self.padding / (self.table + self.slots)


def table_figures(plan: EmbeddingPlan) -> tuple[TableFigures, ...]:
    """Bytes and padding of every table, stack by stack, in their order there."""
    figures = []
    for stack in plan.stacks:
        slot_columns = stack.memory.slots * stack.width // stack.memory.tables
        for placed in stack.tables:
            table, rows = plan.table(placed.table), placed.padded_vocab_size
            # A slot is as wide as the table, or, of one value a row, as wide everywhere.
            slot_width = slot_columns
            if slot_columns % stack.width == 0:
                slot_width = slot_columns // stack.width * table.embedding_dim
            stored = rows * (stack.width + slot_columns)
            used = table.vocabulary_size * (table.embedding_dim + slot_width)
            figures.append(
                TableFigures(
                    name=table.name,
                    stack=stack.name,
                    rows=table.vocabulary_size,
                    padded_rows=rows,
                    width=table.embedding_dim,
                    padded_width=stack.width,
                    table=rows * stack.width * _FLOAT,
                    slots=rows * slot_columns * _FLOAT,
                    padding=(stored - used) * _FLOAT,
                )
            )
    return tuple(figures)


def rows_imbalance(plan: EmbeddingPlan) -> float:
    """Bytes of rows with an id on the device that has most of them, over the mean of all devices.

    With padding, all devices hold the same. Row ``id`` of a table lies on SparseCore
    ``(id + rotation) mod S``: a table has at most one row more on one SparseCore than on another.
    """
    sparsecores = plan.topology.sparsecores
    held = np.zeros(sparsecores)
    cores = np.arange(sparsecores)
    for stack in plan.stacks:
        for placed in stack.tables:
            whole, left = divmod(plan.table(placed.table).vocabulary_size, sparsecores)
            extra = (cores - placed.shard_rotation) % sparsecores < left
            held += (whole + extra) * stack.width
    by_device = held.reshape(plan.topology.devices, -1).sum(axis=1)
    return float(by_device.max() / by_device.mean())
