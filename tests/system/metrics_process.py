"""Tells Ray a run's figures, and prints what the node then serves: ``<run> <seconds>``."""

from __future__ import annotations

import re
import sys
import time
import urllib.request

import ray

from orchestrator import events
from orchestrator.observe import Prometheus

AWAITED = ("evaluation", "seconds_total", "examples_total", "_step", "total_steps")
"""Ends of the names of metrics."""


def main(run: str, seconds: float) -> None:
    """Runs until the figures are served."""
    sink, now = Prometheus(run), 1e9
    sink(now, events.RunStarted(f"runs/{run}", "p", 2, 4, 50, 100, elapsed=2.0))
    ray.init(log_to_driver=False)  # as in a run, only after the first event
    sink(now + 1, events.Launching(0, 2))
    sink(now + 5, events.MeshJoined(0, 2, 4))
    sink(now + 6, events.Restored(0))
    lease = events.LeaseDone(
        0, 0, 0, 10, 0.5, 640, 3.0, {"training": 2.0}, {}, [0.5] * 10, 50
    )  # fmt: skip
    sink(now + 9, lease)
    sink(now + 9, events.Evaluated(10, 0, "test", {"auc": 0.75}, 1.0))
    node = next(node for node in ray.nodes() if node["Alive"])
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + seconds
    served = ""
    # The node serves a metric as soon as it has it, which may be before it has the others.
    while not all(re.search(rf"{name}\{{.*{run}", served) for name in AWAITED):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not serve {AWAITED} after {seconds} seconds: {served}")
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                served = answer.read().decode()
        except OSError:
            continue
    print("\n".join(line for line in served.splitlines() if line.startswith("ray_emberay")))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
