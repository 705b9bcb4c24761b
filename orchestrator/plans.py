"""The plan that the hosts are to work by, and its next version when it holds no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernels.errors import Overflow
from orchestrator import events
from orchestrator.config import RunConfig
from orchestrator.events import Journal
from orchestrator.planning import Plan, Planner
from orchestrator.progress import History
from workers.protocol import Observed

__all__ = ["Plans"]


class Plans:
    """Keeps the newest plan of a run.

    Args:
        config: The run's configuration.
        planner: Makes plans.
        journal: Is told of each.
        newest: The newest plan of an earlier driver, if there is one.
        history: Says what that plan was made for.

    Attributes:
        newest: The newest plan; None before the first.
    """

    def __init__(
        self,
        config: RunConfig,
        planner: Planner,
        journal: Journal,
        newest: Plan | None,
        history: History,
    ) -> None:
        self.newest = newest
        self._planner = planner
        self._journal = journal
        self._limits = config.model_dump(mode="json")["limits"]
        self._hosts: int | None = None
        if history.cluster is not None and history.limits == self._limits:
            hosts, devices = history.cluster
            self._hosts = hosts if devices == hosts * config.devices_per_host else None

    def for_hosts(self, hosts: int) -> Plan | None:
        """The newest plan, if it was made for so many hosts and the present ``limits``."""
        return self.newest if self._hosts == hosts else None

    def first(self, hosts: int, observed: Mapping[str, Observed]) -> Plan:
        """The first plan of the run, or the first for another number of hosts or ``limits``."""
        return self._make(hosts, observed, None)

    def raised(
        self, hosts: int, observed: Mapping[str, Observed], overflows: Sequence[Overflow]
    ) -> Plan:
        """A plan with room for a batch that did not fit the newest one."""
        for over in overflows:
            self._journal.record(
                events.Replanned(
                    self._next_version, over.stack, over.limit, over.allowed, over.observed
                )
            )
        return self._make(hosts, observed, self.newest)

    @property
    def _next_version(self) -> int:
        return 0 if self.newest is None else self.newest.version + 1

    def _make(self, hosts: int, observed: Mapping[str, Observed], previous: Any) -> Plan:
        plan = self._planner.plan(observed, previous, self._next_version, hosts)
        self._journal.record(events.PlanMade(plan.version, plan.hash, self._limits, plan.to_json()))
        self.newest, self._hosts = plan, hosts
        return plan
