"""What the driver knows of each host of one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import HostError
from orchestrator.hosts.interface import Answered, Died, Held, Observation, PulseSeen, Raised
from workers.prediction_protocol import HostReply
from workers.protocol import Hello, Pulse

__all__ = ["HostView", "Roster"]


@dataclass
class HostView:
    """One host, as seen from the driver. Times are on the controller's clock, in seconds.

    Only the roster changes it. A new value for every answer and every pulse would be safer, but of
    a thousand hosts it would take more of the driver's time than all else.
    """

    rank: int
    hello: Hello | None = None
    pulse: Pulse | None = None
    heard_at: float | None = None
    """When the host was last heard of: its hello, or its newest pulse."""
    reply: HostReply | None = None
    """Its answer to the command it was last sent."""
    error: Exception | None = None
    traceback: str = ""
    error_at: float | None = None
    held: Held | None = None
    """Where it waits to be told the end of the lease it runs."""
    died: str | None = None
    """Why its process is gone."""

    @property
    def pid(self) -> int | None:
        """Process id on the host's node, once known."""
        if self.hello is not None:
            return self.hello.pid
        return None if self.pulse is None else self.pulse.pid

    @property
    def name(self) -> str:
        """The host with what identifies its process: ``host 1 (pid 4711)``."""
        return f"host {self.rank}" + (f" (pid {self.pid})" if self.pid else "")

    def silent_for(self, now: float) -> float:
        """Seconds since the host was last heard of; 0 before its first word."""
        return 0.0 if self.heard_at is None else now - self.heard_at

    def last_words(self, now: float) -> str:
        """What was last known of the host, in one line."""
        parts = []
        if self.died is not None:
            parts.append(f"died: {self.died}")
        if self.error is not None:
            parts.append(f"raised {_named(self.error)}")
        if self.pulse is not None:
            parts.append(
                f"{self.pulse.phase} for {self.pulse.phase_seconds:.1f} s at step "
                f"{self.pulse.step}, heard of {self.silent_for(now):.1f} s ago"
            )
        elif self.hello is None:
            parts.append("never started")
        elif not parts:
            parts.append(f"started, heard of {self.silent_for(now):.1f} s ago")
        return "; ".join(parts)


class Roster:
    """The hosts of one launch; fed with observations, asked for what is missing."""

    def __init__(self, hosts: int) -> None:
        self._views = [HostView(rank) for rank in range(hosts)]
        self._expected: type = Hello
        self._missing = hosts

    @property
    def views(self) -> Sequence[HostView]:
        """All hosts by rank."""
        return self._views

    @property
    def complete(self) -> bool:
        """Whether every host has answered the last command."""
        return self._missing == 0

    @property
    def replies(self) -> list[Any]:
        """The answers that have come, by rank; of the type that was expected."""
        return [view.reply for view in self._views if view.reply is not None]

    def expect(self, reply_type: type) -> None:
        """Forget the answers: a command was sent that is answered with this type."""
        self._expected = reply_type
        self._missing = len(self._views)
        for view in self._views:
            view.reply = view.held = None

    def excuse(self, seconds: float, now: float) -> None:
        """Count so many seconds before ``now`` as nobody's silence: the driver did not listen."""
        for view in self._views if seconds else ():
            if view.heard_at is not None:
                view.heard_at = min(view.heard_at + seconds, now)
            if view.error_at is not None:
                view.error_at = min(view.error_at + seconds, now)

    def take(self, observation: Observation, now: float) -> None:
        """Note what was observed at ``now``."""
        view = self._views[observation.rank]
        match observation:
            case PulseSeen(pulse=pulse):
                view.pulse, view.heard_at = pulse, now
            case Answered(reply=reply) if not isinstance(reply, self._expected):
                view.error_at = now
                view.error = HostError(
                    "TypeError",
                    f"answered with {type(reply).__name__}, not {self._expected.__name__}",
                    transient=False,
                )
            case Answered(reply=reply):
                self._missing -= view.reply is None
                view.reply, view.heard_at = reply, now
                if isinstance(reply, Hello):
                    view.hello = reply
            case Raised(error=error, traceback=traceback):
                view.error, view.traceback, view.error_at = error, traceback, now
            case Held():
                view.held = observation
            case Died(reason=reason) if view.died is None:
                view.died = reason
            case _:
                pass

    def last_words(self, now: float, log_of: Callable[[int], str]) -> dict[int, str]:
        """What was last known of every host, by rank, with the end of its log."""
        words = {view.rank: view.last_words(now) for view in self._views}
        logs = {rank: log_of(rank) for rank in words}
        return {
            rank: f"{said}; its log ends: {logs[rank]}" if logs[rank] else said
            for rank, said in words.items()
        }


def _named(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HostError) else f"{type(error).__name__}: {text}"
