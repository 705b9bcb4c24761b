"""When to save, and what to restore."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.leases import Schedule

__all__ = ["checkpoint_to_restore", "save_due"]


def save_due(schedule: Schedule, step: int) -> bool:
    """Whether the state at ``step`` is to be saved: every so many steps, and at the end."""
    return step > 0 and (step % schedule.checkpoint_every == 0 or step == schedule.total_steps)


def checkpoint_to_restore(committed: Iterable[int]) -> int | None:
    """The newest committed checkpoint, or None to initialise everything anew."""
    return max(committed, default=None)
