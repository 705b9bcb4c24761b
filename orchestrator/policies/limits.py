"""What is known of the room that batches need, and how it grows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kernels.errors import LimitsExceeded, Overflow
from workers.protocol import Observed

if TYPE_CHECKING:
    from kernels import Limits

__all__ = ["observe_overflow", "outgrown"]

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


def outgrown(
    limits: Mapping[str, Limits], observed: Mapping[str, Observed], by_hand: Collection[str] = ()
) -> tuple[Overflow, ...]:
    """The limits that batches have gone beyond and were trained on nevertheless.

    That is so only where they may be looked up in minibatches, or lose ids.

    Args:
        limits: Those in force, by table stack.
        observed: Largest values seen.
        by_hand: Stacks whose limits the user has set, and wants to keep.

    Example:
        >>> outgrown({"user": Limits(256, 256, 1024)}, {"user": Observed(320, 100, 900)})
        (Overflow(stack='user', limit='max_ids_per_partition', allowed=256, observed=320),)
    """
    return tuple(
        Overflow(stack, limit, allowed, needed)
        for stack, seen in sorted(observed.items())
        if stack in limits and stack not in by_hand
        for limit, name in _OBSERVED_BY.items()
        if (needed := getattr(seen, name)) > (allowed := getattr(limits[stack], limit))
    )
