"""How long a step should take: bytes and operations over speeds.

A first-order model. Memory, links and matrix units run at their peaks, one thing after another, and
nothing else takes time: no latency, no launch, no random access. So it tells what bounds a step and
how that changes with the slice, and a real step takes longer. `MEASURED` says by how much on CPUs,
where it could be measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.planning.traffic import Traffic
from orchestrator.chips import CHIPS, all_reduce_speed, all_to_all_speed
from orchestrator.topology import SliceTopology
from workers.dense_cost import DenseCost

__all__ = ["MEASURED", "Speeds", "StepTime", "slice_speeds", "step_time"]

MEASURED = (2.2, 8.5)
"""Measured over predicted time of lookup, exchange and update together, least and most: CPU
backend, ``benchmarks.step_model``, with the machine's own copy bandwidth; see docs/plan.md."""


@dataclass(frozen=True)
class Speeds:
    """Of one device."""

    memory: float
    """Bytes a second."""
    exchange: float
    """Bytes a second that it sends when all send to all."""
    sums: float
    """Bytes a second of arrays that are summed over all devices."""
    operations: float
    """Floating-point operations a second."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of the parts of one step."""

    lookup: float
    """Memory traffic of the lookup."""
    update: float
    """Memory traffic of the update."""
    exchange: float
    """Ids, rows and gradients on their way between chips."""
    dense: float
    """The model, forward and backward."""
    sums: float
    """Gradients of the model's parameters, summed over all devices."""

    @property
    def embedding(self) -> float:
        """Lookup, exchange and update."""
        return self.lookup + self.exchange + self.update

    @property
    def total(self) -> float:
        """Everything one after another, as a train step does it."""
        return self.embedding + self.dense + self.sums

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        parts = {
            "memory": self.lookup + self.update,
            "the links between chips": self.exchange + self.sums,
            "the dense model": self.dense,
        }
        return max(parts, key=lambda name: parts[name])


def slice_speeds(topology: SliceTopology) -> Speeds:
    """Published peaks of a device of these slices: of a chip, its devices have equal shares."""
    chip, share = CHIPS[topology.generation.name], 1 / topology.generation.devices_per_chip
    return Speeds(
        memory=chip.memory * share,
        exchange=all_to_all_speed(topology) * share,
        sums=all_reduce_speed(topology),
        operations=chip.operations * share,
    )


def step_time(traffic: Traffic, dense: DenseCost, speeds: Speeds) -> StepTime:
    """The time of one step.

    Args:
        traffic: Bytes of one device, all stacks.
        dense: The model's cost on one device.
        speeds: Of one device.
    """
    return StepTime(
        lookup=traffic.lookup / speeds.memory,
        update=traffic.update / speeds.memory,
        exchange=traffic.sent / speeds.exchange,
        dense=dense.operations / speeds.operations,
        sums=dense.parameter_bytes / speeds.sums,
    )
