"""A host without JAX, data and tables: it answers as a host does, and takes next to no memory."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from typing import Any

import numpy as np

from workers import protocol
from workers.metrics import BINS, BinaryMetrics
from workers.protocol import Assignment, RunSpec

__all__ = ["LightHost", "lease_done"]

LEASE_STEPS = 50
BATCH = 65_536


class LightHost:
    """What `orchestrator.hosts.RayHosts` starts in every actor here, in place of a real host.

    Args:
        run: What every host is told.
        assignment: This host's place.
        address: IP address of its node.
    """

    def __init__(self, run: RunSpec, assignment: Assignment, address: str) -> None:
        del run
        self._assignment, self._address = assignment, address
        self._phase, self._since = "idle", time.monotonic()

    def hello(self) -> protocol.Hello:
        """Who it is."""
        rank = self._assignment.rank
        return protocol.Hello(rank, os.getpid(), socket.gethostname(), f"{self._address}:1")

    def execute(self, command: Any) -> Any:
        """Answers at once."""
        rank = self._assignment.rank
        match command:
            case protocol.Survey():
                return protocol.Surveyed(rank, 0, 1, {})
            case protocol.RunLease():
                return lease_done(rank, self._assignment.hosts)
            case _:
                raise KeyError(f"{type(command).__name__} is not measured")

    def pulse(self) -> protocol.Pulse:
        """As a host's that has nothing to do."""
        seconds = time.monotonic() - self._since
        return protocol.Pulse(self._assignment.rank, os.getpid(), self._phase, seconds, 0, 1)

    def dump_stacks(self) -> str:
        """Nothing to tell."""
        return ""


def lease_done(rank: int, hosts: int) -> protocol.LeaseDone:
    """A report after 50 steps of a global batch of 65,536, as large as a real one."""
    return protocol.LeaseDone(
        rank=rank,
        lease=0,
        first=0,
        last=LEASE_STEPS,
        losses=(0.5,) * LEASE_STEPS,
        examples=BATCH * LEASE_STEPS,
        metrics=_metrics(max(1, BATCH * LEASE_STEPS // hosts)),
        observed={"stack": protocol.Observed(100, 50, 1000)},
        seconds={"training": 5.0, "waiting_for_data": 0.1},
    )


@cache
def _metrics(samples: int) -> BinaryMetrics:
    """Counts of so many samples, with predictions as a click model's."""
    generator = np.random.default_rng(0)
    bins = np.clip((generator.beta(2, 6, samples) * BINS).astype(int), 0, BINS - 1)
    clicked = generator.random(samples) < 0.25
    counts = (np.bincount(bins[which], minlength=BINS) for which in (clicked, ~clicked))
    positives, negatives = (one.astype(float) for one in counts)
    return BinaryMetrics(positives, negatives, 0.5 * samples, float(samples), 0.25 * samples)
