"""The run's steps on one line: epochs, leases, checkpoints and evaluations as marks along it.

Steps count from 0 over the whole run; "at step n" means that the steps 0 to n-1 are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config import EarlyStoppingConfig, RunConfig
from orchestrator.errors import ConfigError

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
        evaluate_every_steps: Steps between evaluations within epochs; None has none there.
        saves_evaluated: Whether every state that is evaluated is saved.
        early_stopping: When evaluations end the run.
    """

    steps_per_epoch: int
    total_steps: int
    lease_steps: int
    checkpoint_every: int
    evaluate_every: int
    evaluates: bool = True
    evaluate_every_steps: int | None = None
    saves_evaluated: bool = False
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)

    @staticmethod
    def of(config: RunConfig, steps_per_epoch: int, *, evaluates: bool = True) -> Schedule:
        """The schedule of a configuration, for data of so many steps an epoch.

        Raises:
            ConfigError: Evaluations are to decide something, but there is nothing to evaluate.
        """
        deciding = {
            "evaluation.early_stopping.patience": config.evaluation.early_stopping.patience,
            "checkpoints.keep_best": config.checkpoints.keep_best,
        }
        for name, value in deciding.items():
            if value and not evaluates:
                raise ConfigError(
                    f"{name} is {value}, but the data has no test split to evaluate: set it to 0, "
                    "or add a folder 'test' to the data"
                )
        total = config.epochs * steps_per_epoch
        return Schedule(
            steps_per_epoch=steps_per_epoch,
            total_steps=total if config.max_steps is None else min(total, config.max_steps),
            lease_steps=config.lease_steps,
            checkpoint_every=config.checkpoints.every,
            evaluate_every=config.evaluation.every_epochs,
            evaluates=evaluates,
            evaluate_every_steps=config.evaluation.every_steps,
            saves_evaluated=config.checkpoints.keep_best > 0,
            early_stopping=config.evaluation.early_stopping,
        )

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def next_mark(self, step: int) -> int:
        """The first step after ``step`` with an end of an epoch, the end, a save or evaluation."""
        epoch_end = (self.epoch_of(step) + 1) * self.steps_per_epoch
        save = (step // self.checkpoint_every + 1) * self.checkpoint_every
        every = self.evaluate_every_steps if self.evaluates else None
        evaluation = self.total_steps if every is None else (step // every + 1) * every
        return min(epoch_end, save, evaluation, self.total_steps)
