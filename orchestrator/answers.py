"""What the hosts' answers mean for the run: noted in its progress, its ledger and its journal."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from orchestrator import checks, events, reports, states
from orchestrator.goodput import lease_shares
from orchestrator.progress import Progress
from orchestrator.schedule import Schedule
from orchestrator.surroundings import Surroundings
from workers import protocol
from workers.norm_histogram import merge_norms

__all__ = ["Answers"]


class Answers:
    """Takes note of what all hosts have done.

    Args:
        around: What the controller acts through.
        schedule: Steps and marks of the run.
        progress: How far it has come.
    """

    def __init__(self, around: Surroundings, schedule: Schedule, progress: Progress) -> None:
        self._around = around
        self._schedule = schedule
        self._progress = progress

    def surveyed(self, replies: Sequence[protocol.Surveyed]) -> events.Surveyed:
        """They have read a sample of the data."""
        report = reports.survey_report(replies)
        self._around.journal.record(report)
        self._progress.observed = dict(report.observed)
        return report

    def restored(self, state: states.Restoring, replies: Sequence[protocol.Restored]) -> None:
        """They hold the state of a checkpoint, or a new one."""
        step = checks.check_restored(replies, state.step)
        self._progress.restore(step)
        self._around.journal.record(events.Restored(step))

    def trained(
        self, state: states.Training, launch: int, replies: Sequence[protocol.LeaseDone]
    ) -> None:
        """They have run a lease."""
        now, lease, journal = self._around.clock(), state.lease, self._around.journal
        checks.check_leases(replies, lease)
        elapsed = now - state.since
        report = reports.lease_report(
            replies, lease, launch=launch, elapsed=elapsed, schedule=self._schedule
        )
        repeated = self._progress.lease_done(replies, lease.save, elapsed)
        self._around.ledger.split(lease_shares(report.seconds, elapsed, repeated), now)
        journal.record(report)
        for skipped in replies[0].skipped:
            if skipped.step not in self._progress.skipped:
                self._progress.skipped[skipped.step] = skipped.reason
                journal.record(events.StepSkipped(skipped.step, skipped.reason, "skip"))
        self._squeezed("train", lease.first, lease.last, [reply.squeezed for reply in replies])
        if lease.save:
            journal.record(events.CheckpointStarted(lease.last))
            self._progress.forget_snapshots(self._around.committed())

    def evaluated(self, state: states.Evaluating, replies: Sequence[protocol.Evaluated]) -> None:
        """They have evaluated a split, or a part of it, of which nothing is kept."""
        step, elapsed = self._progress.step, self._around.clock() - state.since
        if not all(reply.complete for reply in replies):
            self._around.journal.record(events.EvaluationCut(step, state.split))
            return
        report = reports.evaluation_report(replies, step, elapsed=elapsed, schedule=self._schedule)
        self._progress.evaluations[step] = dict(report.metrics)
        self._around.journal.record(report)
        norms = merge_norms([reply.row_norms for reply in replies])
        if norms:
            self._around.journal.record(events.RowNorms(step, norms))
        self._squeezed(state.split, step, step + 1, [reply.squeezed for reply in replies])

    def _squeezed(
        self, split: str, first: int, last: int, shares: Sequence[protocol.Squeezed]
    ) -> None:
        """Tell of batches that exceeded the limits."""
        found = functools.reduce(protocol.Squeezed.beside, shares)
        if found != protocol.Squeezed():
            event = events.Squeezed(split, first, last, found.steps, found.most, found.dropped)
            self._around.journal.record(event)
