"""The plan that the hosts are to work by, and its next version when it holds no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernels.errors import Overflow
from orchestrator import events, policies
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
        self._by_hand = frozenset(config.fixed_limits)
        self._known: dict[str, Observed] | None = None
        self._hosts: int | None = None
        as_before = newest is not None and newest.minibatching == config.minibatching
        if history.cluster is not None and history.limits == self._limits and as_before:
            hosts, devices = history.cluster
            self._hosts = hosts if devices == hosts * config.devices_per_host else None

    def for_hosts(self, hosts: int) -> Plan | None:
        """The newest plan, if it was made for so many hosts and the present settings."""
        return self.newest if self._hosts == hosts else None

    def first(self, hosts: int, observed: Mapping[str, Observed]) -> Plan:
        """The first plan of the run, or the first for another number of hosts or ``limits``."""
        return self._make(hosts, observed, None)

    def raised(
        self,
        hosts: int,
        observed: Mapping[str, Observed],
        overflows: Sequence[Overflow],
        *,
        step: int,
        reason: str,
    ) -> Plan:
        """A plan with room for batches that did not fit the newest one.

        Args:
            hosts: Number of hosts.
            observed: Largest values seen.
            overflows: What did not fit.
            step: Steps that are done.
            reason: See ``events.Replanned``.
        """
        for over in overflows:
            self._journal.record(
                events.Replanned(
                    version=self._next_version,
                    stack=over.stack,
                    limit=over.limit,
                    allowed=over.allowed,
                    observed=over.observed,
                    step=step,
                    reason=reason,
                )
            )
        return self._make(hosts, observed, self.newest)

    def outgrown(self, hosts: int, observed: Mapping[str, Observed], *, step: int) -> Plan | None:
        """A plan for batches that were trained on although they exceed the newest one's limits.

        None if there were none, or limits are set by hand, or the newest plan was made with all of
        this known: another would be no better.
        """
        if self.newest is None or self._known == observed:
            return None
        overflows = policies.outgrown(self.newest.limits, observed, self._by_hand)
        if not overflows:
            return None
        return self.raised(hosts, observed, overflows, step=step, reason="squeezed")

    @property
    def _next_version(self) -> int:
        return 0 if self.newest is None else self.newest.version + 1

    def _make(self, hosts: int, observed: Mapping[str, Observed], previous: Any) -> Plan:
        plan = self._planner.plan(observed, previous, self._next_version, hosts)
        self._journal.record(events.PlanMade(plan.version, plan.hash, self._limits, plan.to_json()))
        self.newest, self._hosts, self._known = plan, hosts, dict(observed)
        return plan
