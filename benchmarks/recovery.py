"""How long a run stands still when a host is killed, with and without spare processes.

    python -m benchmarks.recovery --kills 3

Starts the flights program on hosts of this machine with an empty cache of compiled programs: the
time from the launch to the end of the first lease is that of a cold start. Then, again and again,
one host is killed with SIGKILL, and the time until the end of the next lease is taken. This is done
once with as many spares as hosts, once without; both with the cache that the cold start has filled.
The goal: with spares at most 0.35 of a cold start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import markdown_table
from workers.data.flights import prepare_flights

LEASE_STEPS = 5
LONGEST_WAIT = 240.0
PARTS = ("detect", "pause", "start", "join", "plan", "restore", "compile", "first_step")


class Training:
    """A run in a process of its own."""

    def __init__(self, folder: Path, data: Path, hosts: int, spares: int, cache: Path) -> None:
        self.folder = folder
        command = [
            *(sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)),
            *(f"data={data}", f"hosts={hosts}", f"cluster.spares={spares}", "epochs=1000"),
            *(f"lease_steps={LEASE_STEPS}", "checkpoints.every=50", "evaluation.every_epochs=0"),
        ]
        environment = {**os.environ, "EMBERAY_CACHE": str(cache)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind so far."""
        file = self.folder / "events.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in found if event["kind"] == kind]

    def lease_of(self, launch: int) -> float:
        """When the first lease of a launch, or of a later one, was done; waits for it."""
        deadline = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline:
            for event in self.events("lease_done"):
                if event["launch"] >= launch and event["last"] > event["first"]:
                    return event["time"]
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended: see {self.folder}")
            time.sleep(0.05)
        raise TimeoutError(f"no lease of launch {launch} within {LONGEST_WAIT} s")

    def kill_a_host(self) -> float:
        """Kill the newest launch's last host; seconds until its death was acted on."""
        before = len(self.events("recovering"))
        pid = self.events("host_started")[-1]["pid"]
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        launch = self.events("launching")[-1]["launch"] + 1
        done = self.lease_of(launch)
        self.detected = self.events("recovering")[before]["time"] - killed
        return done - killed

    def end(self) -> dict[str, Any]:
        """Stop it, and read its summary."""
        self.process.terminate()
        self.process.wait(90)
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before each kill")
    options = parser.parse_args()
    data = prepare_flights()
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory(prefix="recovery-") as place:
        cold = None
        for spares in (options.hosts, 0):
            folder = Path(place) / f"spares-{spares}"
            run = Training(folder, data, options.hosts, spares, Path(place) / "cache")
            first = run.lease_of(0)
            if cold is None:
                cold = first - run.events("launching")[0]["time"]
                rows.append(["cold start", cold, 1.0, *[""] * len(PARTS)])
            taken, detected = [], []
            for _ in range(options.kills):
                time.sleep(options.settle)
                taken.append(run.kill_a_host())
                detected.append(run.detected)
            parts = run.end()["recoveries"]
            means = {part: statistics.median(one[part] for one in parts) for part in PARTS}
            means["detect"] = statistics.median(detected)
            least = statistics.median(taken)
            name = f"killed, {spares} spares"
            rows.append([name, least, least / cold, *[means[part] for part in PARTS]])
    print(markdown_table(["", "seconds", "of cold", *PARTS], rows))


if __name__ == "__main__":
    main()
