"""A run at one moment, as the live view shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator import states
from orchestrator.policies import save_due
from orchestrator.schedule import Schedule
from workers.protocol import Lease

if TYPE_CHECKING:
    from orchestrator.progress import Progress
    from orchestrator.roster import HostView

__all__ = ["HostNow", "Moment", "RunNow", "Watched"]


class Watched(Protocol):
    """What is looked at: a ``Controller``."""

    state: states.State
    schedule: Schedule
    progress: Progress

    @property
    def views(self) -> Sequence[HostView]:
        """Every host, as it was last heard of."""
        ...


@dataclass(frozen=True)
class HostNow:
    """One host, as it was last heard of."""

    rank: int
    phase: str
    phase_seconds: float
    step: int | None
    memory: int
    """Bytes of its process."""
    silent: float
    """Seconds since it was last heard of."""
    waited: float | None
    """Share of its last lease that it waited for data."""


@dataclass(frozen=True)
class RunNow:
    """What only the driver's controller and ledger know."""

    doing: str
    step: int
    total_steps: int
    next_save: int | None
    """Step of the next checkpoint; None if none is to follow."""
    goodput: Mapping[str, float]
    """Seconds of this driver by kind of time."""
    hosts: Sequence[HostNow] = ()

    @staticmethod
    def of(
        controller: Watched, goodput: Mapping[str, float], now: float, waited: Sequence[float] = ()
    ) -> RunNow:
        """Look at a run.

        Args:
            controller: Who leads it.
            goodput: Seconds by kind.
            now: The time on the controller's clock.
            waited: Share of its last lease that each host waited for data.
        """
        state, schedule, views = controller.state, controller.schedule, controller.views
        hosts = tuple(_host(view, now, waited) for view in views)
        step = controller.progress.step
        if isinstance(state, states.Training):
            reached = [host.step for host in hosts if host.step is not None]
            step = min(max([step, min(reached, default=step)]), _end(state.lease))
        return RunNow(
            doing=state.doing,
            step=step,
            total_steps=schedule.total_steps,
            next_save=_next_save(schedule, step),
            goodput=goodput,
            hosts=hosts,
        )


def _end(lease: Lease) -> int:
    return max(lease.first, lease.last)


def _next_save(schedule: Schedule, step: int) -> int | None:
    """The next step whose state is saved."""
    while step < schedule.total_steps:
        step = schedule.next_mark(step)
        if save_due(schedule, step):
            return step
    return None


def _host(view: HostView, now: float, waited: Sequence[float]) -> HostNow:
    pulse, silent = view.pulse, view.silent_for(now)
    share = waited[view.rank] if view.rank < len(waited) else None
    if view.died is not None:
        return HostNow(view.rank, "dead", silent, None, 0, silent, share)
    if pulse is None:
        return HostNow(view.rank, "starting", 0.0, None, 0, silent, share)
    phase = "leaving" if pulse.leaving else pulse.phase
    seconds = pulse.phase_seconds + silent
    return HostNow(view.rank, phase, seconds, pulse.step, pulse.memory_bytes, silent, share)


@dataclass(frozen=True)
class Moment:
    """All that the live view shows."""

    program: str
    run: RunNow
    elapsed: float
    """Seconds since this driver began."""
    loss: float | None = None
    losses: Sequence[float] = ()
    """Means of the newest leases, the oldest first."""
    evaluated: tuple[int, str, Mapping[str, float]] | None = None
    """Step, split and figures of the newest evaluation."""
    speed: float | None = None
    """Examples per second of the newest lease, compiling left out."""
    minute: float | None = None
    """Examples per second of the last minute, all else included."""
    waited: float | None = None
    """Share of the newest lease that hosts waited for data, on average."""
    left: float | None = None
    """Seconds to the end, at the pace of the last ten minutes."""
    to_save: float | None = None
    """Seconds to the next checkpoint, at the same pace."""
    restarts: int = 0
