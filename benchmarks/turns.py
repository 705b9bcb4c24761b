"""Measurements that wait for their turn, in a process that holds its tables all the while.

The process prints `READY`, and from then on answers every line of its input, the name of a
measurement, with the least wall and CPU seconds of some runs. Only the standard library is needed:
rivals use this in Pythons of their own.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

READY = "ready"
RUNS = 3
"""Runs for one answer: after another process's turn, the first finds its data in no cache."""


def serve(measurements: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]]) -> None:
    """Answer until the input ends.

    Args:
        measurements: By name, what prepares a run and does not count, and the run, which gets what
            was prepared.
    """
    gc.collect()
    gc.disable()
    print(READY, flush=True)
    for line in sys.stdin:
        prepare, run = measurements[line.strip()]
        wall, cpu = zip(*(_run(prepare, run) for _ in range(RUNS)), strict=True)
        print(json.dumps({"wall": min(wall), "cpu": min(cpu)}), flush=True)


def _run(prepare: Callable[[], Any], run: Callable[[Any], Any]) -> tuple[float, float]:
    given = prepare()
    wall, cpu = time.perf_counter(), time.process_time()
    run(given)
    return time.perf_counter() - wall, time.process_time() - cpu
