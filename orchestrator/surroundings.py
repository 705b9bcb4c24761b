"""What a controller acts through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.events import Journal
from orchestrator.goodput import Ledger
from orchestrator.hosts.interface import HostGroup
from orchestrator.planning import Planner

__all__ = ["Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """What a controller acts through and is told by.

    Attributes:
        group: The hosts.
        planner: Makes plans.
        committed: Steps of the committed checkpoints.
        set_aside: Makes the checkpoint of a step, which cannot be restored, count no more.
        journal: Is told what happens.
        ledger: Is told where time goes.
        clock: Seconds, never going back.
        free: Bytes that are free where checkpoints are written.
    """

    group: HostGroup
    planner: Planner
    committed: Callable[[], Sequence[int]]
    set_aside: Callable[[int], None]
    journal: Journal
    ledger: Ledger
    clock: Callable[[], float]
    free: Callable[[], int] = lambda: sys.maxsize
