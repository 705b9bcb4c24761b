"""How far a run has come, and what it has measured; goes back when a checkpoint is restored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.policies import evaluation_due, stop_early
from orchestrator.schedule import Schedule
from workers.metrics import BinaryMetrics
from workers.protocol import LeaseDone, Observed, merge_observed

__all__ = ["History", "Progress", "mean_seconds"]


@dataclass(frozen=True)
class History:
    """What earlier drivers of the same run left behind; empty for a new run."""

    launches: int = 0
    restarts: int = 0
    """Recoveries, over the whole life of the run."""
    furthest: int = 0
    """Most steps that were ever done."""
    leases: tuple[tuple[int, int, int], ...] = ()
    """(first, last, examples) of the leases that led to the present state, in order."""
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Figures of the test split by step."""
    limits: Any = "auto"
    """What ``limits`` was set to when the newest plan was made, as JSON values."""
    cluster: tuple[int, int] | None = None
    """Hosts and devices that the newest plan was made for."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """Steps that were left without effect, and why."""


class Progress:
    """The controller's memory of the run.

    Attributes:
        step: Steps done: the next one to run is this.
        furthest: Most steps that were ever done.
        saved: Step of the newest checkpoint that was restored, or whose saving has begun.
        evaluations: Figures of the test split by step.
        observed: Largest values seen by table stack.
        skipped: Steps left without effect, and why.
        examples_here: Samples trained by this driver, repeated ones too.
        lease_seconds_here: Wall seconds of this driver's leases, without compiling.
        stages_here: Busy seconds of the data pipeline's stages in them, averaged over hosts.
    """

    def __init__(self, schedule: Schedule, history: History) -> None:
        self.schedule = schedule
        self.step = 0
        self.furthest = history.furthest
        self.saved: int | None = None
        self.evaluations = {step: dict(figures) for step, figures in history.evaluations.items()}
        self.observed: dict[str, Observed] = {}
        self.skipped = dict(history.skipped)
        self.examples_here = 0
        self.lease_seconds_here = 0.0
        self.stages_here: dict[str, float] = {}
        self._leases = list(history.leases)
        self._train = BinaryMetrics.empty()
        self._snapshots: dict[int, BinaryMetrics] = {}

    @property
    def examples(self) -> int:
        """Real samples on the way to the present state, each pass counted."""
        return sum(examples for _, _, examples in self._leases)

    @property
    def recorded(self) -> int:
        """Steps whose losses are on record, on the way to the present state or beyond it."""
        return max((last for _, last, _ in self._leases), default=0)

    @property
    def evaluation_missing(self) -> bool:
        """Whether the present state is to be evaluated and has not been yet."""
        return evaluation_due(self.schedule, self.step) and self.step not in self.evaluations

    @property
    def done(self) -> bool:
        """Whether no step is to follow: all are done, or evaluations have ceased to improve."""
        at_end = self.step >= self.schedule.total_steps
        return at_end or stop_early(self.evaluations, self.schedule.early_stopping)

    @property
    def complete(self) -> bool:
        """Whether no step is to follow and nothing is left to evaluate."""
        return self.done and not self.evaluation_missing

    @property
    def train_metrics(self) -> BinaryMetrics:
        """Metrics of the training samples of the present epoch, or of the last complete one.

        After a resume by a new driver they begin where that one did.
        """
        return self._train

    def restore(self, step: int) -> None:
        """Go to a checkpoint's step: whatever lay beyond it counts no more."""
        self.step = step
        self.saved = step if step > 0 else None
        self._leases = [lease for lease in self._leases if lease[1] <= step]
        self.evaluations = {at: figures for at, figures in self.evaluations.items() if at <= step}
        self._train = self._snapshots.get(step, BinaryMetrics.empty())
        self._snapshots = {at: kept for at, kept in self._snapshots.items() if at <= step}

    def lease_done(self, replies: Sequence[LeaseDone], saving: bool, elapsed: float) -> float:
        """Note a lease that all hosts have done.

        Args:
            replies: The hosts' reports.
            saving: Whether its end is being saved.
            elapsed: Wall seconds of the lease.

        Returns:
            Share of its steps that had been done before.
        """
        first, last, examples = replies[0].first, replies[0].last, replies[0].examples
        repeated = max(0, min(last, self.furthest) - first) / max(1, last - first)
        if last > first:
            if first % self.schedule.steps_per_epoch == 0:
                self._train = BinaryMetrics.empty()
            self._train = BinaryMetrics.total([self._train, *(r.metrics for r in replies)])
            self._leases.append((first, last, examples))
            self.examples_here += examples
            compiling = mean_seconds(reply.seconds for reply in replies).get("compiling", 0.0)
            self.lease_seconds_here += max(0.0, elapsed - compiling)
            for stage, seconds in mean_seconds(reply.stages for reply in replies).items():
                self.stages_here[stage] = self.stages_here.get(stage, 0.0) + seconds
        self.observed = merge_observed(self.observed, *(reply.observed for reply in replies))
        self.step = last
        self.furthest = max(self.furthest, last)
        if saving:
            self.saved = last
            self._snapshots[last] = self._train
        return repeated

    def forget_snapshots(self, committed: Iterable[int]) -> None:
        """Drop the metrics kept for checkpoints that are gone: older than the oldest committed."""
        oldest = min(committed, default=0)
        self._snapshots = {at: kept for at, kept in self._snapshots.items() if at >= oldest}


def mean_seconds(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean over hosts of seconds by kind; a kind that a host lacks counts as 0."""
    sums: dict[str, float] = {}
    count = 0
    for part in parts:
        count += 1
        for kind, seconds in part.items():
            sums[kind] = sums.get(kind, 0.0) + seconds
    return {kind: total / count for kind, total in sums.items()}
