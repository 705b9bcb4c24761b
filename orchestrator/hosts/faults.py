"""Faults that simulated hosts suffer: scripted one by one, or drawn at random from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.errors import HostError
from workers.protocol import Command, RunLease

__all__ = [
    "Fault",
    "FaultKind",
    "FaultSource",
    "NoFaults",
    "RandomDelays",
    "RandomFaults",
    "ScriptedFaults",
]

type FaultKind = Literal["die", "freeze", "stall", "raise", "break", "mismatch", "other_data"]
"""die: the process is gone, and collectives of the others break. freeze: it stops, pulse and all.
stall: it stops, but its pulse goes on. raise: its command raises ``error``. break: the collective
fails on every host, and no process is gone. mismatch, other_data: it answers ``Prepare`` with
another hash of the plan, or another fingerprint of the data."""


@dataclass(frozen=True)
class Fault:
    """One fault of one host.

    Attributes:
        kind: What happens.
        rank: Whom it happens to.
        during: Name of the command's class during which it strikes; ``Launch`` is the start.
        step: For ``RunLease``, the step before which it strikes; None strikes in any lease.
        launch: Only in this launch; None in any.
        times: How often it strikes.
        position: Where in the command's time it strikes, from 0 to 1, if ``step`` does not say.
        error: What ``raise`` raises.
    """

    kind: FaultKind
    rank: int
    during: str = "RunLease"
    step: int | None = None
    launch: int | None = None
    times: int = 1
    position: float = 0.5
    error: Exception = field(
        default_factory=lambda: HostError("RuntimeError", "injected", transient=True)
    )


class FaultSource(Protocol):
    """Decides which fault strikes during a command."""

    def strike(self, command: Command | None, launch: int, hosts: int) -> Fault | None:
        """The fault that strikes now, if any.

        Args:
            command: What the hosts are told; None when they are launched.
            launch: Number of the launch.
            hosts: Number of hosts.
        """
        ...


class NoFaults:
    """Nothing goes wrong."""

    def strike(self, command: Command | None, launch: int, hosts: int) -> Fault | None:
        """None."""
        return None


class ScriptedFaults:
    """Each fault strikes the first ``times`` times that its conditions hold.

    Args:
        faults: In order of precedence, if several could strike at once.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._left = [[fault, fault.times] for fault in faults]

    def strike(self, command: Command | None, launch: int, hosts: int) -> Fault | None:
        """See ``FaultSource.strike``."""
        name = "Launch" if command is None else type(command).__name__
        for entry in self._left:
            fault, times = entry
            if times <= 0 or fault.during != name or fault.launch not in (None, launch):
                continue
            if fault.step is not None and not _contains(command, fault.step):
                continue
            entry[1] = times - 1
            return fault
        return None


class RandomFaults:
    """Strikes each command with a fixed chance, in a random way.

    Args:
        seed: The same seed gives the same faults for the same commands.
        chance: Chance that a command is struck.
        most: Number of faults after which nothing goes wrong any more.
    """

    def __init__(self, seed: int, chance: float, most: int) -> None:
        self._random = random.Random(seed)
        self._chance = chance
        self._left = most

    def strike(self, command: Command | None, launch: int, hosts: int) -> Fault | None:
        """See ``FaultSource.strike``."""
        if self._left <= 0 or self._random.random() >= self._chance:
            return None
        self._left -= 1
        kinds: list[FaultKind] = ["die", "freeze", "stall", "raise", "break"]
        return Fault(
            self._random.choice(kinds),
            self._random.randrange(hosts),
            position=self._random.random(),
        )


class RandomDelays:
    """Makes commands take longer, and single hosts answer later than the others, at random.

    Args:
        seed: The same seed gives the same delays for the same commands.
        chance: Chance of either for each command.
        longest: Most seconds of either.
    """

    def __init__(self, seed: int, chance: float, longest: float) -> None:
        self._random = random.Random(seed)
        self._chance = chance
        self._longest = longest

    def longer(self) -> float:
        """Seconds that the next command takes longer on all hosts."""
        if self._random.random() >= self._chance:
            return 0.0
        return self._random.uniform(0.0, self._longest)

    def straggler(self, hosts: int) -> tuple[int, float] | None:
        """The host that answers the next command late, and by how many seconds."""
        if self._random.random() >= self._chance:
            return None
        return self._random.randrange(hosts), self._random.uniform(0.0, self._longest)


def _contains(command: Command | None, step: int) -> bool:
    return isinstance(command, RunLease) and command.lease.first <= step < command.lease.last
