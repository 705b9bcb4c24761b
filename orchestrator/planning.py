"""Who makes plans for the controller."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.config import LimitsConfig
from orchestrator.errors import ConfigError
from workers.protocol import Observed, RunSpec

if TYPE_CHECKING:
    from kernels import Limits
    from workers.program import Program

__all__ = ["LaunchPlanner", "Plan", "Planner"]


class Plan(Protocol):
    """What the controller needs of an ``EmbeddingPlan``."""

    @property
    def version(self) -> int:
        """Counts the plans of a run from 0."""
        ...

    @property
    def hash(self) -> str:
        """Equal on every host that builds the same plan."""
        ...

    @property
    def limits(self) -> Mapping[str, Limits]:
        """Room for a batch, by table stack."""
        ...

    @property
    def minibatching(self) -> bool:
        """Whether a batch beyond the limits is looked up in several rounds."""
        ...

    def to_json(self) -> str:
        """The plan as it is sent to the hosts."""
        ...


class Planner(Protocol):
    """Makes plans from what is known of the data."""

    def plan(
        self, observed: Mapping[str, Observed], previous: Plan | None, version: int, hosts: int
    ) -> Plan:
        """A plan with room for everything observed.

        Args:
            observed: Largest values seen by table stack.
            previous: The plan that it takes over from.
            version: Version of the new plan.
            hosts: Number of hosts it is for.

        Raises:
            SpecError: No plan can work.
        """
        ...


class LaunchPlanner:
    """The real planner: ``workers.planning.make_plan`` for one program and run.

    Args:
        program: The loaded program.
        run: What the hosts are told of the run.
        fixed: Limits set by hand, by table stack.
    """

    def __init__(self, program: Program, run: RunSpec, fixed: Mapping[str, LimitsConfig]) -> None:
        self._program = program
        self._run = run
        self._fixed = fixed

    def plan(
        self, observed: Mapping[str, Observed] | None, previous: Any, version: int, hosts: int
    ) -> Plan:
        """See ``Planner.plan``; where nothing was observed, with room for whatever may come.

        Raises:
            ConfigError: Limits are set for a table stack that the plan does not have.
            SpecError: No plan can work.
        """
        from kernels import Limits
        from workers.planning import make_plan

        # A cached property fits no protocol's property, so the plan's type is left open here.
        plan: Any = make_plan(
            self._program,
            self._run,
            hosts,
            observed=observed,
            previous=previous,
            version=version,
        )
        stacks = [stack.name for stack in plan.stacks]
        for name in self._fixed:
            if name not in stacks:
                raise ConfigError(
                    f"limits.{name}: there is no table stack '{name}'; stacks are "
                    f"{', '.join(stacks)}"
                )
        if not self._fixed:
            return plan
        limits = {
            name: Limits(
                fixed.max_ids_per_partition,
                fixed.max_unique_ids_per_partition,
                fixed.buffer_size_per_device,
            ).fitted(plan.topology, minibatching=plan.minibatching)
            for name, fixed in self._fixed.items()
        }
        return dataclasses.replace(plan.with_limits(limits), version=version)
