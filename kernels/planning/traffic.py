"""Bytes that lookup and update move in one step, on a device as busy as the busiest SparseCore.

    lookup   a device's ids, samples and gains are read; every row asked of a SparseCore is read
             there; activations are written
    update   ids, samples, gains and gradients of the activations are read; every row asked of a
             SparseCore is read and written there once, with its slot variables
    on the way, with more than one device: rows and gradients are written before they are sent, and
             read where they come to

What caches save and what random access costs beyond its bytes is left out: it is a first-order
model. ``benchmarks.step_model`` compares it with what a CPU takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.planning.plan import StackPlan
from kernels.planning.topology import Topology

__all__ = ["StackDemand", "Traffic", "imbalance", "stack_traffic"]

_FLOAT = 4
_ENTRY = 12
"""Bytes of an entry: id, sample, gain."""


@dataclass(frozen=True, eq=False)
class StackDemand:
    """What a batch asks of one stack, as the mean of some batches.

    A row counts once for every SparseCore that asks for it (D devices, S SparseCores).
    """

    entries: np.ndarray
    """``[D]``: ids of each device's samples."""
    asked: np.ndarray
    """``[D]``: rows that each device asks for."""
    answered: np.ndarray
    """``[S]``: rows that are asked of each SparseCore."""
    different: np.ndarray
    """``[S]``: the same, a row counted once whoever asks for it."""
    asked_elsewhere: np.ndarray
    """``[D]``: of ``asked``, those that lie on other chips."""
    answered_elsewhere: np.ndarray
    """``[D]``: rows that each device is asked for by other chips."""
    off_host: float
    """Of all rows asked for, those that lie on other hosts."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one step on one device."""

    lookup: float = 0.0
    """Of its memory."""
    update: float = 0.0
    """Of its memory."""
    sent: float = 0.0
    """To other chips: ids, rows and gradients."""
    even: float = 0.0
    """Of its memory, lookup and update, if all devices and SparseCores were equally busy."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.lookup + other.lookup,
            self.update + other.update,
            self.sent + other.sent,
            self.even + other.even,
        )


def stack_traffic(stack: StackPlan, topology: Topology, demand: StackDemand) -> Traffic:
    """What one stack adds to the traffic of a device.

    Args:
        stack: The stack.
        topology: The mesh.
        demand: What a batch asks of it.
    """
    row = stack.width * _FLOAT
    stored = row * (1.0 + stack.memory.slots / stack.memory.tables)
    per_device = topology.sparsecores_per_device
    samples = stack.total_sample_count / topology.devices * row
    on_the_way = row if topology.devices > 1 else 0.0

    # Asking: a device's SparseCores have equal shares of its samples. Answering: each has its own.
    asking = demand.entries * _ENTRY + samples + demand.asked * on_the_way
    reading = demand.answered * (row + on_the_way)
    writing = demand.different * 2 * stored + demand.answered * on_the_way
    lookup, update = (
        float(np.max(np.repeat(asking, per_device) + answering * per_device))
        for answering in (reading, writing)
    )
    even = 2 * asking.mean() + (reading.mean() + writing.mean()) * per_device
    sent = (
        demand.asked_elsewhere * (2 * _FLOAT + row) + demand.answered_elsewhere * row
        if topology.devices > 1
        else np.zeros(1)
    )
    return Traffic(lookup, update, float(sent.max()), float(even))


def imbalance(values: np.ndarray) -> float:
    """The largest over the mean; 1 where there is nothing."""
    mean = float(np.mean(values))
    return float(np.max(values)) / mean if mean else 1.0
