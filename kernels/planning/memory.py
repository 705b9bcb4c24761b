"""Bytes a stack takes on one device, and what they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernels.planning.limits import Limits
from kernels.planning.topology import Topology
from kernels.preprocessing.minibatching import BUCKETS
from kernels.specs import StackedTableSpec, TableSpec

__all__ = ["MemoryEstimate", "estimate_memory", "memory_text", "with_other_limits"]

_BYTES = 4
"""Ids are int32, everything else is float32."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    tables: int
    """Rows of the tables, with their padding."""
    slots: int
    """Slot variables of the optimizer, with their padding."""
    input_buffers: int
    """Row pointers, ids, samples and gains of one batch."""
    activations: int
    """What one lookup returns."""
    gradients: int
    """Gradients of the activations."""
    exchange: int
    """Ids and rows on their way between devices; 0 on one device."""
    padding: int
    """How much of tables and slots is padding, which no id ever reads."""

    @property
    def total(self) -> int:
        """All of it; padding is part of tables and slots."""
        return (
            self.tables
            + self.slots
            + self.input_buffers
            + self.activations
            + self.gradients
            + self.exchange
        )

    def __add__(self, other: MemoryEstimate) -> MemoryEstimate:
        return MemoryEstimate(
            *(
                getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(MemoryEstimate)
            )
        )


def estimate_memory(
    stack: StackedTableSpec,
    tables: Iterable[TableSpec],
    limits: Limits,
    topology: Topology,
    *,
    minibatching: bool = False,
) -> MemoryEstimate:
    """Bytes of one stack on one device of the topology.

    Args:
        stack: The stack.
        tables: Its tables, each once.
        limits: Room for a batch.
        topology: The mesh.
        minibatching: Whether there is room for the row pointers of 64 minibatches.
    """
    rows = stack.stack_vocab_size // topology.devices
    width = stack.stack_embedding_dim
    slot_columns = sum(stack.optimizer.slot_variables_widths(width))
    stored = rows * (width + slot_columns)
    used = sum(
        table.vocabulary_size
        * (table.embedding_dim + sum(stack.optimizer.slot_variables_widths(table.embedding_dim)))
        for table in tables
    )
    activations = stack.total_sample_count // topology.devices * width * _BYTES
    return MemoryEstimate(
        tables=rows * width * _BYTES,
        slots=rows * slot_columns * _BYTES,
        input_buffers=_input_buffers(limits, topology, minibatching),
        activations=activations,
        gradients=activations,
        exchange=_exchange(width, limits, topology),
        padding=(stored - used // topology.devices) * _BYTES,
    )


def with_other_limits(
    memory: MemoryEstimate,
    width: int,
    limits: Limits,
    topology: Topology,
    *,
    minibatching: bool = False,
) -> MemoryEstimate:
    """The bytes with other limits: only input buffers and exchange depend on them."""
    return dataclasses.replace(
        memory,
        input_buffers=_input_buffers(limits, topology, minibatching),
        exchange=_exchange(width, limits, topology),
    )


def _input_buffers(limits: Limits, topology: Topology, minibatching: bool) -> int:
    pointers = topology.sparsecores_per_device * max(topology.sparsecores, 8)
    if minibatching:
        pointers *= BUCKETS
    return (pointers + 3 * limits.buffer_size_per_device) * _BYTES


def _exchange(width: int, limits: Limits, topology: Topology) -> int:
    """Sent and received, ids and rows."""
    if topology.devices == 1:
        return 0
    partitions = topology.sparsecores * topology.sparsecores_per_device
    return 2 * partitions * limits.max_unique_ids_per_partition * (width + 1) * _BYTES


_COLUMNS: Mapping[str, str] = {
    "tables": "tables",
    "slots": "slots",
    "input_buffers": "input",
    "activations": "activations",
    "gradients": "gradients",
    "exchange": "exchange",
    "total": "total",
    "padding": "padding",
}
"""Columns of the text, by attribute of `MemoryEstimate`."""


def memory_text(estimates: Mapping[str, MemoryEstimate]) -> str:
    """Estimates as a table in plain text: a line for each, and their sum.

    Args:
        estimates: By name, at least one.
    """
    total = MemoryEstimate(0, 0, 0, 0, 0, 0, 0)
    for estimate in estimates.values():
        total += estimate
    lines = [["stack", *_COLUMNS.values()]]
    for name, estimate in (*estimates.items(), ("all", total)):
        lines.append([name, *(_readable(getattr(estimate, column)) for column in _COLUMNS)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _readable(count: int) -> str:
    """Bytes in the unit that leaves at most four digits before the point."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
