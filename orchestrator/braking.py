"""Having all hosts end what they run together at the same step, before its end.

The driver's side of ``workers.brake``: hold, learn how far every host is, release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator import events
from orchestrator.roster import HostView
from orchestrator.states import Evaluating, Training
from orchestrator.surroundings import Surroundings

__all__ = ["brake"]


def brake[T: (Training, Evaluating)](
    state: T, around: Surroundings, views: Sequence[HostView], leave: Callable[[], bool]
) -> T:
    """Take the next round, if it is time for it.

    Args:
        state: What the hosts run, and the last round taken.
        around: Where the hosts are told, and a lease that is cut is recorded.
        views: The hosts.
        leave: Whether they are to end it; asked until they are told.

    Returns:
        The state with the rounds taken; its lease is as short as it will be run.
    """
    number = state.number
    if number is None or state.braking == "released":
        return state
    if state.braking == "no":
        if not leave():
            return state
        around.group.hold(number)
        return replace(state, braking="holding")
    held = [view.held for view in views if view.held is not None]
    begun = [answer.begun for answer in held if answer.lease == number]
    if len(begun) < len(views):
        return state
    last = max(begun)
    if isinstance(state, Training):
        lease = state.lease
        last = min(lease.last, max(lease.first, last))
        if last < lease.last:
            around.journal.record(events.LeaseCut(number, lease.last, last))
            state = replace(state, lease=replace(lease, last=last, save=False))
    around.group.release(number, last)
    return replace(state, braking="released")
