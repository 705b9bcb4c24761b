"""What is going to happen to simulated hosts, and when; and how each of them is."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from orchestrator.hosts.interface import Observation

__all__ = ["NEVER", "Health", "Timeline"]

NEVER = float("inf")
"""Time of what does not happen."""

type Happening = Callable[[], Iterable[Observation]]
"""Changes what is to be changed, and gives what is seen of it."""


class Timeline:
    """Happenings by time; of those at one time, the first to be put in is the first to happen."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Happening]] = []
        self._count = 0

    @property
    def due(self) -> float:
        """When the next thing happens."""
        return self._queue[0][0] if self._queue else NEVER

    def put(self, time: float, happening: Happening) -> int:
        """Have something happen; its number."""
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, happening))
        return self._count

    def see(self, time: float, observation: Observation) -> int:
        """Have something be seen, which changes nothing; its number."""
        return self.put(time, lambda: (observation,))

    def drop(self, number: int) -> bool:
        """Take a happening out; False if it has happened."""
        left = [entry for entry in self._queue if entry[1] != number]
        found = len(left) < len(self._queue)
        heapq.heapify(left)
        self._queue = left
        return found

    def until(self, now: float) -> list[Observation]:
        """Let everything happen that is due."""
        seen: list[Observation] = []
        while self.due <= now:
            seen.extend(heapq.heappop(self._queue)[2]())
        return seen


class Health:
    """When each host of a launch starts, dies, freezes and stalls; ``NEVER`` if it does not.

    Args:
        hosts: How many there are.
        starts: When they start.
        places: How many there is room for; the rest never starts.
    """

    def __init__(self, hosts: int, starts: float, places: int) -> None:
        self.starts = [starts] * min(hosts, places) + [NEVER] * (hosts - places)
        self._ends = [NEVER] * hosts
        self._stalls = [NEVER] * hosts
        self.first_end = NEVER
        """When the first of them dies or freezes."""
        self.first_stall = NEVER
        """When the first of them stalls."""

    @property
    def hosts(self) -> int:
        """How many there are."""
        return len(self._ends)

    def end(self, rank: int, time: float) -> None:
        """A host dies or freezes."""
        self._ends[rank] = min(self._ends[rank], time)
        self.first_end = min(self.first_end, time)

    def stall(self, rank: int, time: float) -> None:
        """A host goes no further, but its pulse goes on."""
        self._stalls[rank] = min(self._stalls[rank], time)
        self.first_stall = min(self.first_stall, time)

    def stalls_at(self, rank: int) -> float:
        """When a host stalls."""
        return self._stalls[rank]

    def alive(self, rank: int, now: float) -> bool:
        """Whether a host has not died or frozen."""
        return now < self._ends[rank]

    def all_alive(self, now: float) -> bool:
        """Whether none has died or frozen."""
        return now < self.first_end

    def beating(self, now: float) -> list[int]:
        """The hosts that have a pulse."""
        if now < self.first_end:
            return [rank for rank, start in enumerate(self.starts) if start <= now]
        ends = zip(self.starts, self._ends, strict=True)
        return [rank for rank, (start, end) in enumerate(ends) if start <= now < end]
