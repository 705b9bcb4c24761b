"""What is known of the room that batches need, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from kernels.errors import LimitsExceeded
from workers.protocol import Observed

__all__ = ["merge_observed", "raise_limits"]

_NOTHING = Observed(0, 0, 0)
_OBSERVED_BY = {field.name.removeprefix("required_"): field.name for field in fields(Observed)}
"""What is observed for each limit of a plan."""


def merge_observed(*parts: Mapping[str, Observed]) -> dict[str, Observed]:
    """The largest values over several hosts or leases, by table stack."""
    merged: dict[str, Observed] = {}
    for part in parts:
        for stack, observed in part.items():
            merged[stack] = observed.merge(merged.get(stack, _NOTHING))
    return merged


def raise_limits(
    known: Mapping[str, Observed], error: LimitsExceeded
) -> dict[str, Observed] | None:
    """What is known after a batch did not fit.

    Args:
        known: Largest values seen so far, by table stack; the plan was made from these.
        error: Which limit of which stack was too small, and what the batch needs.

    Returns:
        The values to plan with, or None if planning again cannot help: the limit is not one that
        plans raise, or the plan was made from a value that already covered this batch.
    """
    name = _OBSERVED_BY.get(error.limit.removeprefix("required_"))
    before = known.get(error.stack, _NOTHING)
    if name is None or getattr(before, name) >= error.observed:
        return None
    return {**known, error.stack: replace(before, **{name: error.observed})}
