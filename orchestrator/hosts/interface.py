"""What the controller asks of the hosts, whatever carries them.

Nothing here waits, but for ``poll``, which waits no longer than it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.prediction_protocol import HostCommand, HostReply
from workers.protocol import Assignment, Pulse

__all__ = [
    "Answered",
    "Died",
    "Held",
    "HostGroup",
    "Observation",
    "PulseSeen",
    "Raised",
    "StacksSeen",
]


@dataclass(frozen=True)
class Answered:
    """A host has done what it was told, or started (``Hello``)."""

    rank: int
    reply: HostReply


@dataclass(frozen=True)
class Raised:
    """A host's command ended with an exception; its process may live on."""

    rank: int
    error: Exception
    """An ``EmberayError``, or a ``HostError`` that describes any other exception."""
    traceback: str = ""


@dataclass(frozen=True)
class Died:
    """The process of a host is gone. Reported once."""

    rank: int
    reason: str


@dataclass(frozen=True)
class PulseSeen:
    """A host has told its state."""

    rank: int
    pulse: Pulse


@dataclass(frozen=True)
class StacksSeen:
    """The stacks of a host's threads have come."""

    rank: int
    text: str


@dataclass(frozen=True)
class Held:
    """A host begins no further step of a lease until it is released."""

    rank: int
    lease: int
    begun: int
    """Steps of the run that it has begun; 0 if the lease has not begun."""


type Observation = Answered | Raised | Died | PulseSeen | StacksSeen | Held


class HostGroup(Protocol):
    """All hosts of a run, launched and killed together."""

    def launch(self, assignments: Sequence[Assignment]) -> None:
        """Start one process for each assignment; each answers with its ``Hello``.

        Only called when no host of an earlier launch is left.
        """
        ...

    def send(self, command: HostCommand) -> None:
        """Send every host the same command. Each answers once, raises or dies."""
        ...

    def poll(self, timeout: float) -> list[Observation]:
        """What has happened since the last call, in the order it was noticed.

        Pulses are asked for here, at the group's own interval.

        Args:
            timeout: Seconds to wait if nothing has happened.
        """
        ...

    def hold(self, lease: int) -> None:
        """Ask every host to begin no further step of a lease; each answers ``Held``, or dies."""
        ...

    def release(self, lease: int, last: int) -> None:
        """Let the hosts that are held run up to a step, and end the lease there."""
        ...

    def room(self) -> int:
        """How many more hosts could be launched beside those that there are."""
        ...

    def awaits_room(self) -> bool:
        """Whether no process of this launch is started, as there is no room for all of them."""
        ...

    def dump_stacks(self, rank: int) -> None:
        """Ask a host for the stacks of its threads; they come as ``StacksSeen``, or never."""
        ...

    def last_words(self, rank: int) -> str:
        """The last lines a host wrote to its log; empty if there are none."""
        ...

    def kill_all(self) -> None:
        """End every host's process with SIGKILL, stopped ones too, and forget them.

        Nothing of this launch is reported afterwards.
        """
        ...

    def close(self) -> None:
        """Kill what is left and free what the group holds. May be called twice."""
        ...
