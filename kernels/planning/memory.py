"""Bytes a stack takes on one device."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.planning.limits import Limits
from kernels.planning.topology import Topology
from kernels.specs import StackedTableSpec

__all__ = ["MemoryEstimate", "estimate_memory"]

_BYTES = 4
"""Ids are int32, everything else is float32."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    tables: int
    slots: int
    input_buffers: int
    """Row pointers, ids, samples and gains of one batch."""
    activations: int
    """Activations and their gradients."""
    exchange: int
    """Ids and rows on their way between devices; 0 on one device."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.tables + self.slots + self.input_buffers + self.activations + self.exchange

    def __add__(self, other: MemoryEstimate) -> MemoryEstimate:
        return MemoryEstimate(
            self.tables + other.tables,
            self.slots + other.slots,
            self.input_buffers + other.input_buffers,
            self.activations + other.activations,
            self.exchange + other.exchange,
        )


def estimate_memory(stack: StackedTableSpec, limits: Limits, topology: Topology) -> MemoryEstimate:
    """Bytes of one stack on one device of the topology."""
    rows = stack.stack_vocab_size // topology.devices
    width = stack.stack_embedding_dim
    pointers = topology.sparsecores_per_device * max(topology.sparsecores, 8)
    samples = stack.total_sample_count // topology.devices
    slot_columns = sum(stack.optimizer.slot_variables_widths(width))
    exchanged = (
        topology.sparsecores * topology.sparsecores_per_device * limits.max_unique_ids_per_partition
    )
    return MemoryEstimate(
        tables=rows * width * _BYTES,
        slots=rows * slot_columns * _BYTES,
        input_buffers=(pointers + 3 * limits.buffer_size_per_device) * _BYTES,
        activations=2 * samples * width * _BYTES,
        # Sent and received, ids and rows.
        exchange=2 * exchanged * (width + 1) * _BYTES if topology.devices > 1 else 0,
    )
