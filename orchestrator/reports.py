"""What all hosts' answers come to, as one event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

from orchestrator import events
from orchestrator.progress import mean_seconds
from orchestrator.schedule import Schedule
from workers.metrics import BinaryMetrics
from workers.protocol import Evaluated, Lease, LeaseDone, Surveyed, merge_observed
from workers.ranking_metrics import RankingMetrics

__all__ = ["evaluation_report", "lease_report", "survey_report"]


def survey_report(replies: Sequence[Surveyed]) -> events.Surveyed:
    """Rows and steps, which all hosts see alike, and the largest values over all samples."""
    observed = merge_observed(*(reply.observed for reply in replies))
    return events.Surveyed(replies[0].rows, replies[0].steps_per_epoch, observed)


def lease_report(
    replies: Sequence[LeaseDone], lease: Lease, *, launch: int, elapsed: float, schedule: Schedule
) -> events.LeaseDone:
    """The losses, which all hosts have alike, and the mean of their seconds.

    Args:
        replies: The hosts' reports.
        lease: What they were told to run.
        launch: Number of the launch.
        elapsed: Wall seconds, seen from the driver.
        schedule: The run's schedule.
    """
    losses = replies[0].losses
    finite = [loss for loss in losses if math.isfinite(loss)]
    return events.LeaseDone(
        launch=launch,
        lease=lease.number,
        first=lease.first,
        last=lease.last,
        loss=sum(finite) / len(finite) if finite else None,
        examples=replies[0].examples,
        elapsed=elapsed,
        seconds=mean_seconds(reply.seconds for reply in replies),
        stages=mean_seconds(reply.stages for reply in replies),
        losses=losses,
        steps_per_epoch=schedule.steps_per_epoch,
        replies=replies,
    )


def evaluation_report(
    replies: Sequence[Evaluated], step: int, *, elapsed: float, schedule: Schedule
) -> events.Evaluated:
    """The figures of all rows of the split: every host has counted its own.

    Args:
        replies: The hosts' reports.
        step: Steps done by the state that was evaluated.
        elapsed: Wall seconds, seen from the driver.
        schedule: The run's schedule.
    """
    figures = BinaryMetrics.total(reply.metrics for reply in replies).result()
    ranked = [reply.ranking for reply in replies if reply.ranking is not None]
    if ranked:
        figures |= reduce(RankingMetrics.merge, ranked).result()
    epochs = step // schedule.steps_per_epoch
    return events.Evaluated(step, epochs, replies[0].split, figures, elapsed)
