"""Timing rivals against each other on a machine that may be busy: in turns, taking minima."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """The least a run took, in seconds."""

    wall: float
    cpu: float
    """Of all threads of this process."""


def measure(
    rivals: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 15,
    repeats: int = 1,
    warm_up: int = 2,
) -> dict[str, Timing]:
    """Run every rival once a round, for some rounds, and keep each one's least wall and CPU time.

    Taking turns lets a slow moment of the machine fall on all of them; minima leave it out.

    Args:
        rivals: By name, what to run. A result is dropped before the clock stops, so that giving
            memory back is paid by who allocated it.
        rounds: Measurements of each.
        repeats: Runs in one measurement, for rivals that take less than a millisecond.
        warm_up: Rounds that do not count.
    """
    least = {name: Timing(float("inf"), float("inf")) for name in rivals}
    gc.collect()
    gc.disable()
    try:
        for round_number in range(warm_up + rounds):
            for name, run in rivals.items():
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    run()
                cpu = (time.process_time() - cpu) / repeats
                wall = (time.perf_counter() - wall) / repeats
                if round_number >= warm_up:
                    best = least[name]
                    least[name] = Timing(min(best.wall, wall), min(best.cpu, cpu))
    finally:
        gc.enable()
    return least


def markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    """A table in markdown; numbers with three digits."""
    lines = [header, ["---"] * len(header)]
    lines += [[f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
