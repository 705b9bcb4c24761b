"""When to save, and what to restore."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.schedule import Schedule

__all__ = ["checkpoint_to_restore", "save_due"]


def save_due(schedule: Schedule, step: int) -> bool:
    """Whether the state at ``step`` is to be saved: every so many steps, and at the end."""
    return step > 0 and (step % schedule.checkpoint_every == 0 or step == schedule.total_steps)


def checkpoint_to_restore(committed: Iterable[int], recorded: int) -> int | None:
    """The newest committed checkpoint whose steps are all on record.

    Hosts may commit a step just before the driver dies, or before it hears of the lease; going on
    from there, the losses of that lease would be missing for ever, so an older checkpoint is taken.
    Only if there is none is the newest of all restored, as lost records weigh less than lost work.

    Args:
        committed: Steps of the committed checkpoints.
        recorded: Steps whose losses are on record.

    Returns:
        The step, or None to initialise everything anew as there is no checkpoint.
    """
    steps = sorted(committed)
    on_record = [step for step in steps if step <= recorded]
    return max(on_record or steps, default=None)
