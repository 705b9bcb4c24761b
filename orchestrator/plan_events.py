"""Events of plans: what batches need, what they get, and what happens to those that need more.

Part of ``orchestrator.events``, which names them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from orchestrator.journal import UNLOGGED, Event
from workers.protocol import Observed

__all__ = ["PlanConfirmed", "PlanMade", "Replanned", "Squeezed", "Surveyed"]


@dataclass(frozen=True)
class Surveyed(Event):
    """All hosts have read metadata and a sample of the data."""

    kind: ClassVar[str] = "surveyed"
    rows: int
    steps_per_epoch: int
    observed: Mapping[str, Observed]


@dataclass(frozen=True)
class PlanMade(Event):
    """There is a new version of the plan."""

    kind: ClassVar[str] = "plan_made"
    version: int
    hash: str
    limits: Any
    """What ``limits`` is set to in the configuration."""
    plan: str = field(metadata=UNLOGGED)
    """The plan's JSON."""


@dataclass(frozen=True)
class PlanConfirmed(Event):
    """Every host has built the plan and arrived at its hash."""

    kind: ClassVar[str] = "plan_confirmed"
    version: int
    hash: str


@dataclass(frozen=True)
class Replanned(Event):
    """A limit was too small; a plan with higher ones takes over, for which the hosts compile anew.

    One event for each limit.
    """

    kind: ClassVar[str] = "replanned"
    version: int
    stack: str
    limit: str
    allowed: int
    observed: int
    step: int
    """Steps that were done when it was found out."""
    reason: str
    """``refused``: a batch did not fit, and the run goes back to its last checkpoint; ``squeezed``:
    batches were looked up in minibatches, or lost ids, and the run goes on where it is."""


@dataclass(frozen=True)
class Squeezed(Event):
    """Batches of the steps [first, last) exceeded the limits, and were used nevertheless."""

    kind: ClassVar[str] = "squeezed"
    split: str
    first: int
    last: int
    steps: int
    """Batches that were looked up in several minibatches."""
    minibatches: int
    """Most minibatches of one."""
    dropped: Mapping[str, int]
    """Ids that were left out, by table stack, over all hosts; only with ``drop_ids``."""
