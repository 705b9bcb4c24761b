"""With how many hosts a run goes on when some are lost for good, and when they return."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["larger_size", "smaller_size"]


def smaller_size(allowed: Iterable[int], hosts: int, started: int) -> int | None:
    """The largest allowed number of hosts that those that started can fill.

    Args:
        allowed: Numbers of hosts that the run may go on with.
        hosts: Number of hosts that were to start.
        started: How many of them did.

    Returns:
        A number below ``hosts``, or None if none is allowed.

    Example:
        >>> smaller_size([1, 2, 4], hosts=4, started=3)
        2
    """
    return max((size for size in allowed if size < hosts and size <= started), default=None)


def larger_size(allowed: Iterable[int], wanted: int, hosts: int, room: int) -> int | None:
    """The largest allowed number of hosts that there is room for, up to the one that is wanted.

    Args:
        allowed: Numbers of hosts that the run may go on with; ``wanted`` always is one.
        wanted: Number of hosts that the run is meant to have.
        hosts: Number that it has.
        room: How many more the cluster could hold.

    Returns:
        A number above ``hosts``, or None if there is no room for one.

    Example:
        >>> larger_size([1, 2], wanted=4, hosts=1, room=2)
        2
    """
    sizes = {*allowed, wanted}
    return max((s for s in sizes if hosts < s <= min(wanted, hosts + room)), default=None)
