"""The run's steps on one line: epochs, leases, checkpoints and evaluations as marks along it.

Steps count from 0 over the whole run; "at step n" means that the steps 0 to n-1 are done.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config import RunConfig

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Where the marks lie.

    Attributes:
        steps_per_epoch: Steps of one pass over the training split.
        total_steps: Steps of the whole run.
        lease_steps: Most steps of one lease.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Epochs between evaluations; 0 evaluates only at the end.
        evaluates: Whether there is a split to evaluate.
    """

    steps_per_epoch: int
    total_steps: int
    lease_steps: int
    checkpoint_every: int
    evaluate_every: int
    evaluates: bool = True

    @staticmethod
    def of(config: RunConfig, steps_per_epoch: int, *, evaluates: bool = True) -> Schedule:
        """The schedule of a configuration, for data of so many steps an epoch."""
        total = config.epochs * steps_per_epoch
        return Schedule(
            steps_per_epoch=steps_per_epoch,
            total_steps=total if config.max_steps is None else min(total, config.max_steps),
            lease_steps=config.lease_steps,
            checkpoint_every=config.checkpoints.every,
            evaluate_every=config.evaluation.every_epochs,
            evaluates=evaluates,
        )

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def next_mark(self, step: int) -> int:
        """The first step after ``step`` at which the epoch or the run ends or a save is due."""
        epoch_end = (self.epoch_of(step) + 1) * self.steps_per_epoch
        save = (step // self.checkpoint_every + 1) * self.checkpoint_every
        return min(epoch_end, save, self.total_steps)
