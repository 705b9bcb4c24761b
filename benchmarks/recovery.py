"""How long a run stands still when a host is killed, with and without spare processes.

    python -m benchmarks.recovery --rounds 2 --kills 2

Each run trains the flights program on hosts of this machine, and begins cold: no spares, and an
empty cache of compiled programs. *Cold* is the time from the launch of the host processes, with Ray
up already, to the end of the first step: processes start and import, join a mesh, survey the data,
initialise, compile, train. Then, again and again, one host is killed with SIGKILL; the time until
the end of the next step is taken, detection included. Runs with as many spares as hosts and runs
without take turns, and the least of each is shown: what else the machine does only adds to it.
The goal: with spares at most 0.35 of a cold start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import markdown_table
from workers.data.flights import prepare_flights

LONGEST_WAIT = 900.0
PARTS = ("detect", "pause", "start", "join", "plan", "restore", "compile", "first_step")


class Training:
    """A run in a process of its own."""

    def __init__(self, folder: Path, data: Path, hosts: int, spares: int, cache: Path) -> None:
        self.folder = folder
        command = [
            *(sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)),
            *(f"data={data}", f"hosts={hosts}", f"cluster.spares={spares}", "epochs=1000"),
            *("lease_steps=1", "checkpoints.every=50", "evaluation.every_epochs=0"),
        ]
        environment = {**os.environ, "EMBERAY_CACHE": str(cache)}
        self.detected = 0.0
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
        """Kill the newest launch's last host; seconds until the end of the next step."""
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
        self.process.wait(LONGEST_WAIT)
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="runs with and without spares")
    parser.add_argument("--kills", type=int, default=2, help="in each run")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before each kill")
    options = parser.parse_args()
    data = prepare_flights()
    colds: list[float] = []
    kills: dict[int, list[dict[str, float]]] = {options.hosts: [], 0: []}
    for _ in range(options.rounds):
        for spares, found in kills.items():
            with tempfile.TemporaryDirectory(prefix="recovery-") as place:
                cold, taken = measure(Path(place), data, options, spares)
            colds.append(cold)
            found.extend(taken)
    cold = min(colds)
    rows: list[list[Any]] = [["cold start", cold, 1.0, *[""] * len(PARTS)]]
    for spares, found in kills.items():
        best = min(found, key=lambda one: one["seconds"])
        parts = [best[part] for part in PARTS]
        name = f"killed, {spares} spares"
        rows.append([name, best["seconds"], best["seconds"] / cold, *parts])
    print(markdown_table(["", "seconds", "of cold", *PARTS], rows))


def measure(
    place: Path, data: Path, options: argparse.Namespace, spares: int
) -> tuple[float, list[dict[str, float]]]:
    """Seconds of one run's cold start, and of each of its recoveries, whole and by part."""
    run = Training(place / "run", data, options.hosts, spares, place / "cache")
    cold = run.lease_of(0) - run.events("launching")[0]["time"]
    taken = []
    for _ in range(options.kills):
        time.sleep(options.settle)
        seconds = run.kill_a_host()
        taken.append({"seconds": seconds, "detect": run.detected})
    parts = run.end()["recoveries"]
    return cold, [part | one for part, one in zip(parts, taken, strict=True)]


if __name__ == "__main__":
    main()
