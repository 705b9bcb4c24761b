"""When to save, what to restore, and what to delete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.config import CheckpointConfig
from orchestrator.policies.evaluating import best_steps, evaluation_due
from orchestrator.schedule import Schedule

__all__ = ["checkpoint_to_restore", "checkpoints_to_delete", "save_due"]


def save_due(schedule: Schedule, step: int) -> bool:
    """Whether the state at ``step`` is to be saved.

    That is every so many steps, at the end, and, if the best evaluations' checkpoints are kept, at
    every evaluation.
    """
    if step <= 0:
        return False
    if schedule.saves_evaluated and evaluation_due(schedule, step):
        return True
    return step % schedule.checkpoint_every == 0 or step == schedule.total_steps


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


def checkpoints_to_delete(
    committed: Iterable[int],
    verified: Iterable[int],
    evaluations: Mapping[int, Mapping[str, float]],
    recorded: int,
    settings: CheckpointConfig,
) -> tuple[int, ...]:
    """The committed checkpoints that no reason is left to keep.

    Kept are the newest ``keep``; multiples of ``keep_every``; those of the best ``keep_best``
    evaluations; the one that a restart would take; and, so that one good checkpoint is left
    whatever else is set, the newest verified one, and the newest verified one on record.

    Args:
        committed: Steps of the committed checkpoints.
        verified: Those among them whose files are all there.
        evaluations: Figures by step.
        recorded: Steps whose losses are on record.
        settings: What to keep.

    Returns:
        Steps, the oldest first.

    Raises:
        ConfigError: An evaluation has no figure ``best_metric``.

    Example:
        >>> checkpoints_to_delete([10, 20, 30, 40], [10, 20], {}, 40, CheckpointConfig(keep=1))
        (10, 30)
    """
    steps = sorted(committed)
    kept = set(steps[-settings.keep :])
    if settings.keep_every is not None:
        kept |= {step for step in steps if step % settings.keep_every == 0}
    if settings.keep_best:
        # Only what is committed still competes: the best may never have been, or be set aside.
        competing = {step: evaluations[step] for step in steps if step in evaluations}
        kept |= set(
            best_steps(competing, settings.best_metric, settings.best_mode, settings.keep_best)
        )
    good = set(verified) & set(steps)
    for last_resort in (
        checkpoint_to_restore(steps, recorded),
        max(good, default=None),
        checkpoint_to_restore(good, recorded),
    ):
        if last_resort is not None:
            kept.add(last_resort)
    return tuple(step for step in steps if step not in kept)
