"""Hearing what the hosts have to say, and how long the driver did not listen.

The driver may have been stopped (Ctrl-Z, a laptop's lid), or have waited for a storage. The hosts'
pulses and answers of that time are taken one after another when it listens again, so that for a
moment all others seem silent, or late, though they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.hosts.interface import HostGroup, Observation

__all__ = ["Listener"]


class Listener:
    """Polls the hosts, and measures the time between polls.

    Args:
        group: The hosts.
        clock: Seconds.
        leeway: Seconds between polls, beyond what they wait, that are nothing out of the ordinary.
    """

    def __init__(self, group: HostGroup, clock: Callable[[], float], leeway: float) -> None:
        self._group = group
        self._clock = clock
        self._leeway = leeway
        self._before: float | None = None

    def hear(self, patience: float) -> tuple[Sequence[Observation], float]:
        """What has happened since the last call.

        Args:
            patience: Seconds to wait if nothing has happened.

        Returns:
            What happened, and for how many seconds no host can be blamed, as the driver listened so
            much later than it should have; mostly 0.
        """
        seen = self._group.poll(patience)
        now = self._clock()
        before, self._before = self._before, now
        absent = 0.0 if before is None else now - before - patience
        return seen, absent if absent > self._leeway else 0.0
