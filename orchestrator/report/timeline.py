"""Where the time of a run went, and when things went wrong: from its events alone.

The driver keeps the same account while it runs (``orchestrator.goodput.Ledger``), but writes down
only its sums. Every event that ends a state tells where the time since the one before went.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.goodput import KINDS, lease_shares

__all__ = ["Accountant", "Mark", "Span", "Timeline", "buckets", "timeline_of"]


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds since the run began; times between drivers are left out."""

    start: float
    end: float
    shares: Mapping[str, float]
    """By kind of time; they sum to 1."""


@dataclass(frozen=True)
class Mark:
    """Something that happened, at so many seconds since the run began."""

    at: float
    kind: str
    """Kind of the event."""
    step: int
    """Steps done."""
    event: Mapping[str, Any]


@dataclass(frozen=True)
class Timeline:
    """All of a run's time, without gaps, and all of its events."""

    spans: Sequence[Span]
    marks: Sequence[Mark]
    drivers: int
    """How many drivers have led it."""

    @property
    def end(self) -> float:
        """Seconds from its beginning to its newest event."""
        return self.spans[-1].end if self.spans else 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by kind, in the order of ``goodput.KINDS``."""
        sums = dict.fromkeys(KINDS, 0.0)
        for span in self.spans:
            for kind, share in span.shares.items():
                sums[kind] += share * (span.end - span.start)
        return sums


def timeline_of(events: Iterable[Mapping[str, Any]]) -> Timeline:
    """The timeline of a run.

    Args:
        events: As ``events.jsonl`` holds them.
    """
    walk = Accountant()
    for event in events:
        walk.take(event)
    return Timeline(tuple(walk.spans), tuple(walk.marks), walk.drivers)


def buckets(timeline: Timeline, count: int) -> list[dict[str, float]]:
    """The shares of each kind in ``count`` equal parts of the time; the last may be empty."""
    width = timeline.end / count
    found: list[dict[str, float]] = [{} for _ in range(count)]
    if width <= 0:
        return found
    for span in timeline.spans:
        first = min(count - 1, int(span.start / width))
        last = min(count - 1, int(span.end / width))
        for place in range(first, last + 1):
            low, high = place * width, (place + 1) * width
            overlap = (min(span.end, high) - max(span.start, low)) / width
            if overlap > 0:
                bucket = found[place]
                for kind, share in span.shares.items():
                    bucket[kind] = bucket.get(kind, 0.0) + share * overlap
    return found


class Accountant:
    """Is told the events one by one, and knows what kind of time is open.

    Attributes:
        spans: Of the events so far.
        marks: The same.
        drivers: How many have led the run.
        total_steps: Steps of the whole run; None before a driver has started.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.marks: list[Mark] = []
        self.drivers = 0
        self.total_steps: int | None = None
        self._shift = 0.0
        self._now = 0.0
        self._kind = "launching"
        self._step = 0
        self._furthest = 0
        self._holding = False

    def take(self, event: Mapping[str, Any]) -> None:
        """An event, as ``events.jsonl`` holds it."""
        kind = event["kind"]
        if kind == "run_started":
            self._begin(event)
        now = max(self._now, event["time"] - self._shift)
        match kind:
            case "run_started":
                self._open("launching", now)
            case "launching":
                self._close(now)
                self._open("launching", now)
                self._holding = False
            case "host_started":  # told of all at once, when the last one has started
                self._close(now)
            case "mesh_joined" | "surveyed":
                self._close(now)
                self._open("planning", now)
            case "plan_confirmed":
                self._close(now, "planning")
                # The next thing may be a lease, an evaluation or the end: each says so itself.
                self._open("saving" if self._holding else "restoring", now)
            case "restored":
                self._close(now)
                self._step, self._holding = event["step"], True
                self._open("saving", now)
            case "lease_done":
                self._lease(event, now)
            case "evaluated" | "evaluation_cut":
                self._close(now, "evaluating")
            case "recovering" | "failed":
                self._close(now, "recovering")
                self._open("recovering", now)
            case "finished" | "interrupted":
                self._close(now)
        self.marks.append(Mark(now, kind, self._step, event))

    def taken(self) -> list[Span]:
        """The spans since the last call, which are forgotten here, as are the marks."""
        spans, self.spans, self.marks = self.spans, [], []
        return spans

    def _begin(self, event: Mapping[str, Any]) -> None:
        """A driver starts, right after what the one before it did last."""
        self.drivers += 1
        self.total_steps = event["total_steps"]
        before = float(event.get("elapsed") or 0.0)
        self._shift = event["time"] - self._now - before
        self._kind = "planning"
        self._close(self._now + before)

    def _lease(self, event: Mapping[str, Any], now: float) -> None:
        first, last = event["first"], event["last"]
        repeated = max(0, min(last, self._furthest) - first) / max(1, last - first)
        shares = lease_shares(event["seconds"], event["elapsed"], repeated)
        self._span(now, shares)
        self._step, self._furthest = last, max(self._furthest, last)
        self._open("saving", now)

    def _open(self, kind: str, now: float) -> None:
        self._kind, self._now = kind, now

    def _close(self, now: float, kind: str | None = None) -> None:
        self._span(now, {kind or self._kind: 1.0})

    def _span(self, now: float, shares: Mapping[str, float]) -> None:
        if now > self._now:
            self.spans.append(Span(self._now, now, shares))
            self._now = now
