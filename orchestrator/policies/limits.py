"""What is known of the room that batches need, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kernels.errors import LimitsExceeded
from workers.protocol import Observed

__all__ = ["observe_overflow"]

_OBSERVED_BY = {
    "max_ids_per_partition": "max_ids_per_partition",
    "max_unique_ids_per_partition": "max_unique_ids_per_partition",
    "buffer_size_per_device": "required_buffer_size_per_device",
}
"""What is observed for each limit: fields of ``kernels.Limits`` to those of ``Observed``."""


def observe_overflow(
    known: Mapping[str, Observed], error: LimitsExceeded
) -> dict[str, Observed] | None:
    """What is known after a batch did not fit, with all of its overflows taken in.

    Args:
        known: Largest values seen so far, by table stack; the plan was made from these.
        error: Which limits of which stacks were too small, and what the batch needs of each.

    Returns:
        The values to plan with, or None if planning again cannot help: the plan was made from
        values that already covered this batch.

    Example:
        >>> error = LimitsExceeded([Overflow("user", "max_ids_per_partition", 256, 320)])
        >>> observe_overflow({"user": Observed(200, 90, 900)}, error)["user"].max_ids_per_partition
        320
    """
    raised = dict(known)
    for overflow in error.overflows:
        name = _OBSERVED_BY[overflow.limit]
        before = raised.get(overflow.stack, Observed(0, 0, 0))
        needed = max(getattr(before, name), overflow.observed)
        raised[overflow.stack] = replace(before, **{name: needed})
    return None if raised == known else raised
