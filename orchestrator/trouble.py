"""What is done about what went wrong: start anew, knowing more than before, or give up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kernels.errors import EmberayError
from orchestrator import events, policies, states, verdict_events
from orchestrator.config import RunConfig
from orchestrator.plans import Plans
from orchestrator.policies import Fatal, Lost, OverLimits, Verdict
from orchestrator.progress import Progress
from orchestrator.restarts import Restarts
from orchestrator.states import Waiting
from orchestrator.storage import Storage
from orchestrator.surroundings import Surroundings
from workers.errors import CheckpointError, NonFiniteLoss, StorageFull

__all__ = ["GiveUp", "Recover", "Remedy", "Trouble"]


@dataclass(frozen=True)
class Recover:
    """Start all hosts anew from the last checkpoint."""

    cause: str
    culprits: tuple[int, ...]
    """Ranks."""
    reason: str
    wait: float = 0.0
    """Seconds until the start."""
    hanging: bool = False
    """Whether hosts hang, so that the stacks of all are worth having before they are ended."""


@dataclass(frozen=True)
class GiveUp:
    """End the run."""

    error: Exception


type Remedy = Recover | GiveUp


class Trouble:
    """Finds a remedy for each verdict, and counts how often it had to.

    Args:
        config: The run's configuration.
        around: What the controller acts through.
        progress: How far the run has come.
        plans: The plan in force.
        restarts: Counts recoveries.
        storage: Whether there is room for checkpoints.
    """

    def __init__(
        self,
        config: RunConfig,
        around: Surroundings,
        progress: Progress,
        plans: Plans,
        restarts: Restarts,
        storage: Storage,
    ) -> None:
        self._config = config
        self._settings = config.failures
        self._around = around
        self._progress = progress
        self._plans = plans
        self._restarts = restarts
        self._storage = storage

    def remedy(
        self,
        verdict: Verdict,
        state: Waiting,
        *,
        hosts: int,
        last_words: Callable[[], Mapping[int, str]],
    ) -> Remedy:
        """What to do.

        Args:
            verdict: What is wrong.
            state: What the hosts were at.
            hosts: How many there are.
            last_words: What was last known of each; asked for only to give up.
        """
        try:
            match verdict:
                case Lost():
                    return self._restart(verdict, last_words)
                case OverLimits():
                    known = self._more_room(verdict, hosts)
                    cause = "limits"
                case Fatal(error=NonFiniteLoss() as error):
                    known = self._pass_over(error)
                    cause = "non_finite"
                case Fatal(error=StorageFull()):
                    known = self._save_later()
                    cause = "storage"
                case Fatal():
                    known = self._skip_checkpoint(verdict.error, state)
                    cause = "checkpoint"
        except EmberayError as error:
            return GiveUp(error)
        if known:
            return Recover(cause, (verdict.culprit.rank,), str(verdict.error))
        if isinstance(verdict, OverLimits):
            return GiveUp(verdict.error)
        return GiveUp(verdict_events.error_of(verdict, state.doing, last_words()))

    def too_many_skipped(self) -> NonFiniteLoss | None:
        """The error of a run that has left out more steps than it may, else None."""
        skipped, most = self._progress.skipped, self._settings.max_skipped
        if len(skipped) <= most:
            return None
        step, reason = max(skipped.items())
        return NonFiniteLoss(
            f"{len(skipped)} steps were not finite, and failures.max_skipped is {most}; the last "
            f"is step {step}: {reason}; lower the learning rates, or look at the data",
            step,
        )

    def _restart(self, verdict: Lost, last_words: Callable[[], Mapping[int, str]]) -> Remedy:
        """Start anew, unless that has been tried often enough."""
        attempts = self._restarts.note_failure(self._progress.furthest)
        if attempts > self._settings.max_restarts:
            furthest = self._progress.furthest
            return GiveUp(verdict_events.gave_up(verdict, furthest, attempts, last_words()))
        wait = policies.restart_pause(attempts, self._settings)
        ranks = tuple(host.rank for host in verdict.culprits)
        return Recover(verdict.cause, ranks, verdict.reason, wait, verdict.hanging)

    def _more_room(self, verdict: OverLimits, hosts: int) -> bool:
        """Make a plan with room for the batch that did not fit; False if that cannot help."""
        overflows, fixed = verdict.error.overflows, self._config.fixed_limits
        known = policies.observe_overflow(self._progress.observed, verdict.error)
        by_hand = any(overflow.stack in fixed for overflow in overflows)
        if known is None or by_hand or self._plans.newest is None:
            return False
        self._progress.observed = known
        step = self._progress.step
        self._plans.raised(hosts, known, overflows, step=step, reason="refused")
        return True

    def _pass_over(self, error: NonFiniteLoss) -> bool:
        """Leave the batch of the step out from now on; False if that is not wanted."""
        if self._settings.nan != "rollback" or error.step is None:
            return False
        if error.step in self._progress.skipped:
            return False
        self._progress.skipped[error.step] = str(error)
        if (too_many := self.too_many_skipped()) is not None:
            raise too_many
        self._around.journal.record(events.StepSkipped(error.step, str(error), "rollback"))
        return True

    def _save_later(self) -> bool:
        """Go on without checkpoints until there is more room; False if that was tried too often."""
        attempts = self._restarts.note_failure(self._progress.furthest)
        self._storage.ran_out()
        return attempts <= self._settings.max_restarts

    def _skip_checkpoint(self, error: Exception, state: Waiting) -> bool:
        """Set a checkpoint aside that cannot be restored; False if it is not that, or the last."""
        if not isinstance(error, CheckpointError) or not isinstance(state, states.Restoring):
            return False
        if not set(self._around.committed()) - {state.step} or state.step is None:
            return False
        self._around.group.kill_all()
        self._around.set_aside(state.step)
        self._around.journal.record(events.CheckpointSkipped(state.step, str(error)))
        return True
