"""What the run's events tell the live view, and how fast the run has come on lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator import events
from orchestrator.events import Event
from orchestrator.observe.moment import Moment, RunNow

__all__ = ["Notes", "Pace"]

_MINUTE = 60.0
_PACE_SECONDS = 600.0
"""What the estimated end is computed from: long enough to hold saves and evaluations."""


@dataclass
class Pace:
    """How fast the run has come on lately; told of every lease.

    Example:
        >>> pace = Pace()
        >>> for second in range(30):
        ...     pace.note(float(second), 10 * second, 640 * second)
        >>> pace.steps_per_second(29.0), pace.examples_per_second(29.0)
        (10.0, 640.0)
    """

    marks: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(time, steps done, examples trained on), the oldest first."""

    def note(self, now: float, step: int, examples: int) -> None:
        """So many steps are done, and so many examples were trained on since the driver began.

        Where a checkpoint has been restored, steps go back and the pace begins anew.
        """
        if self.marks and step < self.marks[-1][1]:
            self.marks.clear()
        self.marks.append((now, step, examples))
        while now - self.marks[0][0] > _PACE_SECONDS:
            self.marks.popleft()

    def steps_per_second(self, now: float) -> float | None:
        """Over the last ten minutes; None before there are two leases."""
        if len(self.marks) < 2:
            return None
        since, first, _ = self.marks[0]
        steps = self.marks[-1][1] - first
        return steps / (now - since) if steps and now > since else None

    def examples_per_second(self, now: float) -> float | None:
        """Over the last minute; None before there are two leases."""
        recent = [mark for mark in self.marks if now - mark[0] <= _MINUTE] or [*self.marks][-1:]
        if len(self.marks) < 2 or len(recent) < 2:
            return None
        since, _, first = recent[0]
        return (recent[-1][2] - first) / (now - since) if now > since else None


class Notes:
    """What the run's events tell the live view.

    Args:
        began: When the driver began, on a clock that never goes back; now by default.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = time.monotonic() if began is None else began
        self._program = ""
        self._pace = Pace()
        self._examples = 0
        self._losses: deque[float] = deque(maxlen=24)
        self._evaluated: tuple[int, str, Mapping[str, float]] | None = None
        self._speed: float | None = None
        self._waited: float | None = None
        self._restarts = 0
        self.waited: tuple[float, ...] = ()
        """Share of its last lease that each host waited for data."""

    def take(self, event: Event, now: float) -> None:
        """Note an event."""
        match event:
            case events.RunStarted():
                self._program = event.program
                self._began = now - event.elapsed
            case events.Restored():
                self._pace.note(now, event.step, self._examples)
            case events.Evaluated():
                self._evaluated = event.step, event.split, event.metrics
            case events.Recovering():
                self._restarts += 1
            case events.LeaseDone() if event.losses:
                self._examples += event.examples
                self._pace.note(now, event.last, self._examples)
                if event.loss is not None:
                    self._losses.append(event.loss)
                seconds = event.elapsed - event.seconds.get("compiling", 0.0)
                if seconds > 0:
                    self._speed = event.examples / seconds
                    self._waited = event.seconds.get("waiting_for_data", 0.0) / seconds
                    self.waited = tuple(
                        reply.seconds.get("waiting_for_data", 0.0) / seconds
                        for reply in event.replies
                    )

    def moment(self, run: RunNow, now: float) -> Moment:
        """All of it, with what the controller knows."""
        pace = self._pace.steps_per_second(now)
        return Moment(
            program=self._program,
            run=run,
            elapsed=now - self._began,
            loss=self._losses[-1] if self._losses else None,
            losses=tuple(self._losses),
            evaluated=self._evaluated,
            speed=self._speed,
            minute=self._pace.examples_per_second(now),
            waited=self._waited,
            left=None if pace is None else (run.total_steps - run.step) / pace,
            to_save=None
            if pace is None or run.next_save is None
            else (run.next_save - run.step) / pace,
            restarts=self._restarts,
        )
