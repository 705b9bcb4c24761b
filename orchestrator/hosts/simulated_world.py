"""The world of simulated hosts: its clock, its storage, its data, and how long things take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from kernels import Limits
from workers import protocol
from workers.protocol import Observed

__all__ = [
    "COLLECTIVE",
    "STACK",
    "FakeClock",
    "SimulatedPlan",
    "SimulatedPlanner",
    "Times",
    "World",
]

STACK = "stack"
"""Name of the only table stack."""

COLLECTIVE = (
    protocol.Join,
    protocol.Restore,
    protocol.RunLease,
    protocol.Evaluate,
    protocol.Finish,
)
"""Commands that no host can end alone."""


class FakeClock:
    """A clock that goes only when it is told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


@dataclass(frozen=True)
class Times:
    """Seconds that things take."""

    start: float = 5.0
    join: float = 1.0
    survey: float = 2.0
    prepare: float = 1.0
    restore: float = 2.0
    compile: float = 2.0
    step: float = 0.1
    evaluate: float = 3.0
    finish: float = 0.5
    commit: float = 1.5
    """From the end of a lease that saves until its checkpoint is committed."""
    pulse: float = 1.0
    notice: float = 0.5
    """From the death of a process until it is reported."""


@dataclass
class World:
    """What outlives a launch: the storage, the data's needs, and a record of what was done.

    Attributes:
        steps_per_epoch: Steps of an epoch.
        batch_size: Samples of a step.
        data: Fingerprint of the data that hosts see.
        needs: By step, the ids a batch needs room for; others need 1.
        committed: Steps of committed checkpoints.
        leases: (launch, first, last) of every lease that was begun.
        evaluated: Steps at which an evaluation was begun.
        capacity: Hosts that there is room for; more do not start.
        bad_steps: Steps whose loss is not finite.
        skips_bad: Whether hosts leave such a step without effect; else it is an error.
    """

    steps_per_epoch: int
    batch_size: int = 64
    data: str = "data"
    needs: Mapping[int, int] = field(default_factory=dict)
    committed: list[int] = field(default_factory=list)
    leases: list[tuple[int, int, int]] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    capacity: int = 1 << 30
    bad_steps: frozenset[int] = frozenset()
    skips_bad: bool = False
    squeezes: bool = False
    """Whether a batch beyond the limit takes minibatches, as many as its need holds the limit."""

    def first_over(self, steps: range, limit: int) -> int | None:
        """The first step whose batch needs more room than there is, if there is one."""
        if self.squeezes:
            return None
        return next((step for step in steps if self.needs.get(step, 1) > limit), None)

    def squeezed(self, steps: range, limit: int) -> protocol.Squeezed:
        """What is done about batches that need more room than there is."""
        rounds = [-(-self.needs.get(step, 1) // limit) for step in steps]
        return protocol.Squeezed(sum(n > 1 for n in rounds), max(rounds, default=1))

    def first_bad(self, lease: protocol.Lease) -> int | None:
        """The first step that is an error as its loss is not finite, if there is one."""
        steps = range(lease.first, lease.last)
        bad = (step for step in steps if step in self.bad_steps and step not in lease.skip)
        return None if self.skips_bad else next(bad, None)

    def loss(self, step: int) -> float:
        """The loss of a step: it depends on nothing else."""
        return 1.0 / (1.0 + step) + 0.01 * (step * 7919 % 13)


@dataclass(frozen=True)
class SimulatedPlan:
    """A plan that is only a version and a limit."""

    version: int
    limit: int

    @property
    def limits(self) -> dict[str, Limits]:
        """One for all."""
        return {STACK: Limits(self.limit, self.limit, self.limit)}

    @property
    def minibatching(self) -> bool:
        """See ``World.squeezes``."""
        return False

    @property
    def hash(self) -> str:
        """Equal for equal plans."""
        return f"plan-{self.version}-{self.limit}"

    def to_json(self) -> str:
        """As it is sent to the hosts."""
        return json.dumps({"version": self.version, "limit": self.limit})


class SimulatedPlanner:
    """Plans exactly as much room as was observed."""

    def plan(
        self, observed: Mapping[str, Observed], previous: object, version: int, hosts: int
    ) -> SimulatedPlan:
        """See ``Planner.plan``."""
        known = observed.get(STACK, Observed(1, 1, 1))
        return SimulatedPlan(version, known.max_ids_per_partition)
