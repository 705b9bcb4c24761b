"""What simulated hosts report of a lease, and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from orchestrator.hosts.faults import Fault
from orchestrator.hosts.simulated_world import STACK, Times, World
from workers.metrics import BINS, BinaryMetrics
from workers.norm_histogram import NormHistogram
from workers.protocol import (
    Evaluate,
    Evaluated,
    Lease,
    LeaseDone,
    Observed,
    Prepared,
    Reply,
    SkippedStep,
)

__all__ = ["altered", "evaluation_replies", "lease_replies", "nothing", "simulated_metrics"]


def lease_replies(
    world: World, lease: Lease, hosts: int, compiling: float, times: Times, limit: int
) -> Callable[[int], LeaseDone]:
    """What each host answers, by rank.

    Args:
        world: Says which steps are bad, and what batches need.
        lease: As it was run.
        hosts: Number of hosts.
        compiling: Seconds spent on compiling.
        times: How long things take.
        limit: Room that the plan gives.
    """
    steps = range(lease.first, lease.last)
    needed = max((world.needs.get(step, 1) for step in steps), default=1)
    examples = sum(step not in lease.skip for step in steps) * world.batch_size
    passed_over = world.bad_steps | {*lease.skip}
    losses = tuple(float("nan") if s in passed_over else world.loss(s) for s in steps)
    bad = [step for step in steps if step in world.bad_steps and step not in lease.skip]
    skipped = tuple(SkippedStep(step, "the loss is nan") for step in bad)
    squeezed = world.squeezed(steps, limit)
    metrics = simulated_metrics(examples / hosts)
    seconds = {"compiling": compiling, "training": len(steps) * times.step * 0.8}

    def reply(rank: int) -> LeaseDone:
        return LeaseDone(
            rank=rank,
            lease=lease.number,
            first=lease.first,
            last=lease.last,
            losses=losses,
            examples=examples,
            metrics=metrics,
            observed={STACK: Observed(needed, needed, needed)},
            seconds=seconds,
            skipped=skipped,
            squeezed=squeezed,
        )

    return reply


def evaluation_replies(command: Evaluate) -> Callable[[int], Evaluated]:
    """What each host answers, by rank: each has ten rows of the norm 1, and more by its rank."""

    def reply(rank: int) -> Evaluated:
        rows = 10 + rank
        norms = NormHistogram(
            *(rows, 0, 0, 0, 0, 160, (rows,)), least=1.0, most=1.0, total=rows, squares=rows
        )
        shown = {STACK: norms} if command.row_norms else {}
        return Evaluated(rank, command.split, simulated_metrics(100.0), row_norms=shown)

    return reply


def altered(said: Reply, fault: Fault | None) -> Reply:
    """An answer as a fault makes it: with another hash, or other data."""
    if fault is None or not isinstance(said, Prepared) or fault.rank != said.rank:
        return said
    other = "plan_hash" if fault.kind == "mismatch" else "data"
    return replace(said, **{other: "another"})


def nothing() -> None:
    """Nothing happens."""


def simulated_metrics(weight: float) -> BinaryMetrics:
    """Counts of samples with this weight, a quarter of them positive."""
    positives, negatives = np.zeros(BINS), np.zeros(BINS)
    positives[BINS // 2], negatives[BINS // 4] = weight / 4, 3 * weight / 4
    return BinaryMetrics(positives, negatives, 0.4 * weight, weight, weight / 4)
