"""Curves out of a run's files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from orchestrator.report.reading import RunRecord

__all__ = [
    "Curve",
    "evaluation_curves",
    "loss_curve",
    "memory_curves",
    "recent_loss",
    "speed_curve",
    "thinned",
]

MOST_POINTS = 120
"""Points that a curve of any length is drawn with."""


@dataclass(frozen=True)
class Curve:
    """Values over steps done.

    Attributes:
        name: Shown beside it.
        points: (steps done, value).
        spread: (steps done, least value, largest value), where many values stand behind a point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float, float]] = ()

    @property
    def last(self) -> float | None:
        """Its newest value."""
        return self.points[-1][1] if self.points else None


def thinned(name: str, values: Iterable[tuple[float, float | None]]) -> Curve:
    """A curve of at most ``MOST_POINTS`` points: means of neighbours, and how far they spread.

    Args:
        name: Name of the curve.
        values: (steps done, value) by rising step; values that are missing or not finite are
            passed over.
    """
    kept = [(x, y) for x, y in values if y is not None and math.isfinite(y)]
    if len(kept) <= MOST_POINTS:
        return Curve(name, kept)
    each = math.ceil(len(kept) / MOST_POINTS)
    points, spread = [], []
    for place in range(0, len(kept), each):
        part = kept[place : place + each]
        ys = [y for _, y in part]
        x = sum(x for x, _ in part) / len(part)
        points.append((round(x, 1), sum(ys) / len(ys)))
        spread.append((round(x, 1), min(ys), max(ys)))
    return Curve(name, points, spread)


def loss_curve(run: RunRecord, name: str = "training") -> Curve:
    """The loss of every training step, before its update."""
    lines = (line for line in run.metrics if "split" not in line)
    return thinned(name, ((line["step"] + 1, line["loss"]) for line in lines))


def recent_loss(run: RunRecord) -> float | None:
    """Mean loss of the last tenth of the steps; None if there are none."""
    losses = [line["loss"] for line in run.metrics if "split" not in line]
    recent = [loss for loss in losses[-max(1, len(losses) // 10) :] if loss is not None]
    return sum(recent) / len(recent) if recent else None


def evaluation_curves(run: RunRecord) -> dict[str, dict[str, Curve]]:
    """Figures of evaluations: by figure, then by split."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in run.metrics:
        for figure, value in line.get("metrics", {}).items():
            if value is not None:
                by_split = found.setdefault(figure, {})
                by_split.setdefault(line["split"], []).append((line["step"], value))
    return {
        figure: {split: Curve(split, points) for split, points in by_split.items()}
        for figure, by_split in found.items()
    }


def speed_curve(run: RunRecord, name: str = "examples/s") -> Curve:
    """Examples per second of every lease on the way to the present state, compiling left out."""
    points: list[tuple[float, float | None]] = []
    for event in run.events:
        if event["kind"] == "restored":
            points = [point for point in points if point[0] <= event["step"]]
        elif event["kind"] == "lease_done" and event["last"] > event["first"]:
            seconds = event["elapsed"] - event["seconds"].get("compiling", 0.0)
            if seconds > 0:
                points.append((event["last"], event["examples"] / seconds))
    return thinned(name, points)


def memory_curves(hosts: Sequence[Mapping[str, Any]], key: str) -> list[Curve]:
    """Bytes over steps: of every host, or, if they are many, of the least, median and most.

    Args:
        hosts: Lines of ``hosts.jsonl``.
        key: ``memory`` or ``device_memory``.
    """
    lines = [line for line in hosts if any(line.get(key, ()))]
    if not lines:
        return []
    most = max(len(line[key]) for line in lines)
    if most <= 4:
        return [
            thinned(
                f"host {rank}",
                ((line["last"], line[key][rank]) for line in lines if rank < len(line[key])),
            )
            for rank in range(most)
        ]
    chosen = {"largest host": max, "median host": median, "smallest host": min}
    return [
        thinned(name, ((line["last"], float(choose(line[key]))) for line in lines))
        for name, choose in chosen.items()
    ]
