"""Which steps the hosts may run next without asking again."""

from __future__ import annotations

from orchestrator.policies.checkpointing import save_due
from orchestrator.schedule import Schedule
from workers.protocol import Lease

__all__ = ["evaluation_due", "next_lease", "saving_lease"]


def next_lease(schedule: Schedule, step: int, number: int, plan_hash: str) -> Lease:
    """The lease from ``step`` on, up to its full length or the next mark, whichever is first.

    Args:
        schedule: The run's schedule.
        step: Steps done; less than the total.
        number: Number of the lease.
        plan_hash: Plan under which the hosts are to run it.
    """
    last = min(step + schedule.lease_steps, schedule.next_mark(step))
    return Lease(number, plan_hash, step, last, save=save_due(schedule, last))


def saving_lease(step: int, number: int, plan_hash: str) -> Lease:
    """A lease that runs no step and saves the state at ``step``."""
    return Lease(number, plan_hash, step, step, save=True)


def evaluation_due(schedule: Schedule, step: int) -> bool:
    """Whether the state at ``step`` is to be evaluated: at ends of epochs, and at the end."""
    if step <= 0 or not schedule.evaluates:
        return False
    if step >= schedule.total_steps:
        return True
    epochs, rest = divmod(step, schedule.steps_per_epoch)
    return rest == 0 and schedule.evaluate_every > 0 and epochs % schedule.evaluate_every == 0
