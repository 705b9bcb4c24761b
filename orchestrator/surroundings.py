"""What a controller acts through."""

from __future__ import annotations

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
        committed: Steps of the checkpoints that can be restored.
        journal: Is told what happens.
        ledger: Is told where time goes.
        clock: Seconds, never going back.
    """

    group: HostGroup
    planner: Planner
    committed: Callable[[], Sequence[int]]
    journal: Journal
    ledger: Ledger
    clock: Callable[[], float]
