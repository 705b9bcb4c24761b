"""How many hosts a run has, and why it would go on with other ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator import policies
from orchestrator.config import RunConfig
from orchestrator.roster import HostView

__all__ = ["Handover", "Sizing"]


@dataclass(frozen=True)
class Handover:
    """A reason to save, end all hosts in good order, and launch new ones."""

    reason: Literal["preempted", "resize", "room"]
    """preempted: hosts will be ended by their machine. resize: somebody asked for it. room: hosts
    that were missing could start now."""
    hosts: int
    """Number of hosts to launch."""
    culprits: tuple[int, ...] = ()
    """Ranks of the hosts that will be ended."""


class Sizing:
    """Keeps the number of hosts.

    Args:
        config: The run's configuration.
        room: How many more hosts the cluster could hold.
        awaits_room: Whether no host of this launch is started before there is room for all.

    Attributes:
        hosts: Number of hosts of the present launch.
        wanted: Number that the run is meant to have.
    """

    def __init__(
        self, config: RunConfig, room: Callable[[], int], awaits_room: Callable[[], bool]
    ) -> None:
        self.hosts = self.wanted = config.hosts
        self._settings = config.elastic
        self._longest_start = config.failures.launch_timeout
        self._room = room
        self._awaits_room = awaits_room
        self._requested: int | None = None
        self._look_at = 0.0
        self._room_came = 0.0

    def request(self, hosts: int) -> None:
        """Go on with so many hosts, as soon as that can be done in good order; on any thread."""
        self._requested = hosts

    def launch(self, now: float, hosts: int | None = None) -> int:
        """Hosts are about to be launched: how many.

        Args:
            now: The time.
            hosts: Their number; None for as many as before, or as were asked for.
        """
        requested, self._requested = self._requested, None
        self.wanted = self.wanted if requested is None else requested
        self.hosts = requested or hosts or self.hosts
        self._look_at = now + self._settings.grow_after
        self._room_came = 0.0
        return self.hosts

    def handover(
        self, views: Sequence[HostView], now: float, known: Handover | None = None
    ) -> Handover | None:
        """Whether there is a reason to hand over to other hosts, and which.

        Args:
            views: The hosts.
            now: The time.
            known: The reason there is already; only hosts that must leave are a more urgent one.
        """
        leaving = tuple(v.rank for v in views if v.pulse is not None and v.pulse.leaving)
        if leaving and (known is None or known.reason != "preempted"):
            return Handover("preempted", self.hosts if known is None else known.hosts, leaving)
        if known is not None:
            return known
        if self._requested is not None:
            if self._requested != self.hosts:
                return Handover("resize", self._requested)
            self._requested, self.wanted = None, self.hosts
        if self.hosts < self.wanted and now >= self._look_at:
            self._look_at = now + self._settings.grow_after
            sizes, room = self._settings.sizes, self._room()
            larger = policies.larger_size(sizes, self.wanted, self.hosts, room)
            return None if larger is None else Handover("room", larger)
        return None

    def smaller(self, views: Sequence[HostView], waited: float) -> int | None:
        """With how many hosts to start instead, as some do not come; None to wait on.

        Args:
            views: The hosts of this launch.
            waited: Seconds since it began. Those in which there was no room for any host do not
                count for hosts that could start only then.
        """
        awaits_room = self._awaits_room()
        if awaits_room:
            self._room_came = waited  # not yet, but no earlier
        starting = waited if awaits_room else waited - self._room_came
        if starting < min(self._settings.shrink_after, self._longest_start):
            return None
        started = sum(view.hello is not None and view.died is None for view in views)
        if awaits_room:
            # Hosts that are placed together, all or none.
            started = self._room()
        return policies.smaller_size(self._settings.sizes, self.hosts, started)
