"""Which steps the hosts may run next without asking again."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.policies.checkpointing import save_due
from orchestrator.schedule import Schedule
from workers.protocol import Lease

__all__ = ["next_lease", "saving_lease"]


def next_lease(
    schedule: Schedule, step: int, number: int, plan_hash: str, skipped: Iterable[int] = ()
) -> Lease:
    """The lease from ``step`` on, up to its full length or the next mark, whichever is first.

    Args:
        schedule: The run's schedule.
        step: Steps done; less than the total.
        number: Number of the lease.
        plan_hash: Plan under which the hosts are to run it.
        skipped: Steps of the run whose batches are passed over.
    """
    last = min(step + schedule.lease_steps, schedule.next_mark(step))
    skip = tuple(sorted(at for at in skipped if step <= at < last))
    return Lease(number, plan_hash, step, last, save=save_due(schedule, last), skip=skip)


def saving_lease(step: int, number: int, plan_hash: str) -> Lease:
    """A lease that runs no step and saves the state at ``step``."""
    return Lease(number, plan_hash, step, step, save=True)
