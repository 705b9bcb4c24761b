"""Where the time of a run went: every second belongs to exactly one kind."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["KINDS", "Ledger", "lease_shares"]

KINDS: tuple[str, ...] = (
    "launching",
    "planning",
    "restoring",
    "compiling",
    "training",
    "waiting_for_data",
    "saving",
    "evaluating",
    "coordinating",
    "recovering",
    "repeated_work",
)
"""What time is spent on:

* launching: processes start and join the mesh;
* planning: input is checked and surveyed, plans are made and prepared;
* restoring: a checkpoint is loaded, or everything initialised;
* compiling, training, waiting_for_data, saving: inside leases, as the hosts report them; saving
  also holds the wait for the last commit;
* evaluating: as it says, with compiling for it;
* coordinating: the rest of a lease, between driver and hosts;
* recovering: whatever was going on when a host was lost, and the end of the others;
* repeated_work: steps that had been done before.
"""

_OF_LEASES = ("compiling", "training", "waiting_for_data", "saving")


class Ledger:
    """Adds up the seconds of each kind; at any moment one kind is open.

    Example:
        >>> ledger = Ledger(now=0.0)
        >>> ledger.enter("training", now=2.0)
        >>> ledger.enter("saving", now=5.0)
        >>> ledger.seconds(now=5.5)["training"]
        3.0
    """

    def __init__(self, now: float, kind: str = "launching") -> None:
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._kind = kind
        self._since = now

    def enter(self, kind: str, now: float, *, spent_as: str | None = None) -> None:
        """Close the open kind and open another.

        Args:
            kind: The kind from ``now`` on.
            now: The time, not before that of the last call.
            spent_as: Kind of the time that ends here, if it turned out to be another than was said.
        """
        if kind not in self._seconds:
            raise ValueError(f"'{kind}' is no kind of time; kinds are {', '.join(KINDS)}")
        self._seconds[spent_as or self._kind] += now - self._since
        self._kind, self._since = kind, now

    def split(self, shares: Mapping[str, float], now: float) -> None:
        """Divide the time that ends here by ``shares`` (which sum to 1); the open kind stays."""
        elapsed = now - self._since
        for kind, share in shares.items():
            self._seconds[kind] += share * elapsed
        self._since = now

    def seconds(self, now: float) -> dict[str, float]:
        """Seconds by kind, in the order of ``KINDS``; they sum to the time since the start."""
        result = dict(self._seconds)
        result[self._kind] += now - self._since
        return result


def lease_shares(
    reported: Mapping[str, float], elapsed: float, repeated: float
) -> dict[str, float]:
    """How the wall time of a lease divides into kinds.

    Args:
        reported: Seconds by kind, averaged over the hosts.
        elapsed: Wall seconds of the lease, seen from the driver.
        repeated: Share of the lease's steps that had been done before. That share of its time is
            repeated work, except for compiling.

    Returns:
        Shares by kind; they sum to 1.
    """
    known = {kind: max(0.0, reported.get(kind, 0.0)) for kind in _OF_LEASES}
    total = sum(known.values())
    whole = max(total, elapsed)
    if whole <= 0.0:
        return {"coordinating": 1.0}
    shares = {kind: seconds / whole for kind, seconds in known.items() if seconds > 0.0}
    rest = 1.0 - sum(shares.values())
    if rest > 0.0:
        shares["coordinating"] = shares.get("coordinating", 0.0) + rest
    if repeated > 0.0:
        again = {kind: share * repeated for kind, share in shares.items() if kind != "compiling"}
        shares = {kind: share - again.get(kind, 0.0) for kind, share in shares.items()}
        shares["repeated_work"] = sum(again.values())
    return shares
