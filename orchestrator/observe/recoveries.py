"""How long each recovery took, part by part, from the loss of a host to the next step."""

from __future__ import annotations

from orchestrator import events
from orchestrator.journal import Event

__all__ = ["PARTS", "Recoveries"]

PARTS: tuple[str, ...] = (
    "detect",
    "pause",
    "start",
    "join",
    "plan",
    "restore",
    "compile",
    "first_step",
)
"""What the time is spent on:

* detect: from a frozen host's last pulse until it counts as frozen; a death is told at once, and
  counts 0;
* pause: until the launch: stacks are collected, ``failures.restart_delay``;
* start: processes start and import everything;
* join: they join one mesh;
* plan: the plan is prepared, and made before if it is another;
* restore: the checkpoint is loaded;
* compile: the train step is compiled, or taken from the cache;
* first_step: the mean of the first lease's steps, without compiling.
"""

_ENDS: dict[type[Event], str] = {
    events.Launching: "pause",
    events.HostStarted: "start",
    events.MeshJoined: "join",
    events.PlanConfirmed: "plan",
    events.Restored: "restore",
}
"""Events at which a part ends; of those that come for every host, the last one."""


class Recoveries:
    """A sink that measures.

    Attributes:
        seconds: For each recovery that came to its next step, seconds by part and their ``total``.

    Example:
        >>> recoveries = Recoveries()
        >>> journal = Journal([recoveries])                 # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.seconds: list[dict[str, float]] = []
        self._open: dict[str, float] | None = None
        self._since = 0.0
        self._silent = 0.0

    def __call__(self, time: float, event: Event) -> None:
        """See ``orchestrator.events.Sink``."""
        if isinstance(event, events.HostFrozen):
            self._silent = max(self._silent, event.pulse_age)
        if isinstance(event, events.Recovering):
            # One that strikes before the next step is part of the same recovery.
            open_ = self._open = self._open or dict.fromkeys(PARTS, 0.0)
            open_["detect"] += self._silent
            self._since, self._silent = time, 0.0
        if self._open is None:
            return
        part = _ENDS.get(type(event))
        if part is not None:
            self._open[part] += time - self._since
            self._since = time
        if isinstance(event, events.LeaseDone) and event.last > event.first:
            compiling = event.seconds.get("compiling", 0.0)
            steps = event.last - event.first
            self._open["compile"] += compiling
            self._open["first_step"] += max(0.0, event.elapsed - compiling) / steps
            self.seconds.append(self._open | {"total": sum(self._open.values())})
            self._open = None
