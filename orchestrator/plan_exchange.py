"""What a sample of batches asks of every table stack, and what is sent for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.planning.traffic import StackDemand, imbalance
from workers.protocol import Observed

if TYPE_CHECKING:
    from kernels import StackPlan

__all__ = ["ExchangeFigures", "exchange_figures"]

_ID = _FLOAT = 4


@dataclass(frozen=True)
class ExchangeFigures:
    """One stack in one batch, over all devices: means of the batches looked at."""

    stack: str
    ids: float
    asked: float
    """Rows, counted once for every SparseCore that asks for them."""
    different: float
    """Rows, counted once."""
    most_in_a_partition: int
    """Different rows that one SparseCore asked of another, at most."""
    lookup_bytes: float
    """Sent between chips in the lookup: row ids there, rows back."""
    update_bytes: float
    """Sent between chips in the update: row ids and gradients."""
    off_host_share: float
    """Share of the rows asked for that lie on another host."""
    busiest_asking: float
    """Rows that the busiest device asks for, over the mean."""
    busiest_answering: float
    """Rows that the busiest device is asked for, over the mean."""
    busiest_sparsecore: float
    """Rows that the busiest SparseCore is asked for, over the mean."""


def exchange_figures(
    stack: StackPlan, demand: StackDemand, observed: Observed, devices: int
) -> ExchangeFigures:
    """The figures of one stack.

    Args:
        stack: The stack.
        demand: What a batch asks of it.
        observed: The largest values seen.
        devices: Devices of the mesh.
    """
    asked, elsewhere = float(demand.asked.sum()), float(demand.asked_elsewhere.sum())
    message = elsewhere * (_ID + stack.width * _FLOAT)
    return ExchangeFigures(
        stack=stack.name,
        ids=float(demand.entries.sum()),
        asked=asked,
        different=float(demand.different.sum()),
        most_in_a_partition=observed.max_unique_ids_per_partition,
        lookup_bytes=message,
        update_bytes=message,
        off_host_share=demand.off_host / asked if asked else 0.0,
        busiest_asking=imbalance(demand.asked),
        busiest_answering=imbalance(demand.answered.reshape(devices, -1).sum(axis=1)),
        busiest_sparsecore=imbalance(demand.answered),
    )
