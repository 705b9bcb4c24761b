"""Hearing what the hosts have to say, and how long the driver did not listen.

The driver may have been stopped (Ctrl-Z, a laptop's lid), or have waited for a storage. The hosts'
pulses and answers of that time are taken one after another when it listens again, so that for a
moment all others seem silent, or late, though they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.config import FailureConfig
from orchestrator.hosts.interface import HostGroup, Observation
from orchestrator.roster import Roster

__all__ = ["Heard", "Listener"]


@dataclass(frozen=True)
class Heard:
    """What came of listening once."""

    seen: Sequence[Observation]
    now: float
    """When it came: hosts are judged by what was known at this moment."""
    absent: float
    """Seconds before it for which no host can be blamed; mostly 0."""

    def excuse(self, roster: Roster, since: float) -> float:
        """Count the driver's absence as nobody's silence; before what was heard is taken.

        Args:
            roster: The hosts.
            since: When they were told what they do now.

        Returns:
            Seconds by which to postpone what they are to have done.
        """
        roster.excuse(self.absent, self.now)
        return min(self.absent, max(0.0, self.now - since))


class Listener:
    """Polls the hosts, and measures the time between polls.

    Where every poll takes long, as there are very many hosts, none of them is late, and all that
    time counts.

    Args:
        group: The hosts.
        clock: Seconds.
        settings: Say after which silence a host is given up: polls that are later by less than a
            quarter of that are nothing out of the ordinary.
    """

    def __init__(
        self, group: HostGroup, clock: Callable[[], float], settings: FailureConfig
    ) -> None:
        self._group = group
        self._clock = clock
        self._leeway = max(settings.pulse_interval, settings.pulse_deadline / 4)
        self._before: float | None = None
        self._was_late = False

    def hear(self, patience: float) -> Heard:
        """What has happened since the last call.

        Args:
            patience: Seconds to wait if nothing has happened.
        """
        seen = self._group.poll(patience)
        now = self._clock()
        before, self._before = self._before, now
        late = 0.0 if before is None else now - before - patience
        again, self._was_late = self._was_late, late > self._leeway
        return Heard(seen, now, late if self._was_late and not again else 0.0)
