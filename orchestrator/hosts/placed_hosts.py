"""What groups share whose hosts are started all at once, when there is room for all of them.

    launch            → remember who is to be started, and look for room
    poll              → until there is room, look for it again; then what the hosts have to say
    last_words        → while there is no room, what is missing

Where the room comes from is the subclass's business.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from orchestrator.config import ClusterConfig
from orchestrator.hosts.interface import Observation
from orchestrator.hosts.ray_hosts import RayHosts
from orchestrator.slices import Place
from workers.prediction_protocol import HostCommand
from workers.protocol import Assignment, RunSpec

__all__ = ["PlacedHosts"]

_LOOK_SECONDS = 0.5
"""Time between two looks at the cluster while room is waited for."""


class PlacedHosts(ABC):
    """A ``HostGroup`` that waits for room before it starts its processes.

    Args:
        run: What every host is told.
        cluster: Says what a host takes.
        pulse_interval: Seconds between pulses.
        factory: See ``RayHosts``.
    """

    def __init__(
        self, run: RunSpec, cluster: ClusterConfig, pulse_interval: float, factory: str
    ) -> None:
        self._hosts = RayHosts(
            run, cluster, pulse_interval=pulse_interval, factory=factory, place=self._place
        )
        self._waiting: list[Assignment] = []
        self._missing = ""
        self._look_at = 0.0

    # The interface.

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """See ``HostGroup.launch``; the processes are started when there is room for all."""
        self._waiting = list(assignments)
        self._look_at = 0.0
        self._return_surplus()
        self._look()

    def poll(self, timeout: float) -> list[Observation]:
        """See ``HostGroup.poll``."""
        if self._waiting:
            self._look()
        if self._waiting:
            time.sleep(min(timeout, _LOOK_SECONDS))
            return []
        return self._hosts.poll(timeout)

    def send(self, command: HostCommand) -> None:
        """See ``HostGroup.send``."""
        self._hosts.send(command)

    def hold(self, lease: int) -> None:
        """See ``HostGroup.hold``."""
        self._hosts.hold(lease)

    def release(self, lease: int, last: int) -> None:
        """See ``HostGroup.release``."""
        self._hosts.release(lease, last)

    @abstractmethod
    def room(self) -> int:
        """See ``HostGroup.room``."""

    def awaits_room(self) -> bool:
        """See ``HostGroup.awaits_room``."""
        return bool(self._waiting)

    def dump_stacks(self, rank: int) -> None:
        """See ``HostGroup.dump_stacks``."""
        self._hosts.dump_stacks(rank)

    def last_words(self, rank: int) -> str:
        """See ``HostGroup.last_words``; where there is no room, what is missing."""
        return self._missing or self._hosts.last_words(rank)

    def kill_all(self) -> None:
        """See ``HostGroup.kill_all``; room that is whole stays ours for the next launch."""
        self._hosts.kill_all()
        self._waiting = []
        self._return_broken()

    def close(self) -> None:
        """See ``HostGroup.close``; all room is given back."""
        self._hosts.close()
        self._return_all()

    # What a subclass does.

    @abstractmethod
    def _find_room(self, now: float) -> str:
        """Ask for room for those who wait.

        Args:
            now: Seconds of the monotonic clock.

        Returns:
            What is missing; empty once there is room for all.
        """

    @abstractmethod
    def _return_surplus(self) -> None:
        """Give back room that those who wait have no use for."""

    @abstractmethod
    def _return_broken(self) -> None:
        """Give back room that is not ours yet, or has lost a node."""

    @abstractmethod
    def _return_all(self) -> None:
        """Give back all room."""

    @abstractmethod
    def _place(self, assignment: Assignment) -> Place:
        """Where a host is started: computed afresh at every start."""

    def _look(self) -> None:
        """Look for room, not too often, and start the hosts when all of it is there."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        self._missing = self._find_room(now)
        if not self._missing:
            waiting, self._waiting = self._waiting, []
            self._hosts.launch(waiting)
