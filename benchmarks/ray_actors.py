"""What real Ray costs by number of actors on one machine: start, commands, pulses, kill, restart.

    uv run python -m benchmarks.ray_actors --actors 8 16 32

The driver's own `RayHosts` starts light hosts (`benchmarks.light_host`), each in an actor's process
of its own as in a run, without JAX: so what is measured is Ray, the actors' processes and the
driver's side of both. For every number of actors:

- *launch*: from the request until all have said who they are;
- *command*: until all have answered a small command; *report*: until all have reported a lease;
  and CPU time of the driver's process for it, as the actors work on the same cores here;
- *pulses*: CPU time of the driver's process for one round of pulses, one of all actors;
- *death seen*: from SIGKILL to an actor's process until the driver hears of it;
- *kill all* and *launch again*: as a run does when it recovers;
- *memory* of an actor: its private part (USS).

Commands and pulses: the median of some. At last, what it takes to ask Ray which of so many pending
answers are there, which the driver does whenever one comes.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.timing import markdown_table
from orchestrator.config import ClusterConfig
from orchestrator.hosts.interface import Answered, Died, Observation, PulseSeen
from orchestrator.ray_session import RaySession
from workers import protocol

COMMANDS = 20
PULSE_SECONDS = 8.0
LONGEST = 600.0
PENDING = (32, 512, 2048, 8192)
HEADER = ["actors", "launch s", "command ms", "CPU", "report ms", "CPU", "pulses CPU ms"]
HEADER += ["death seen ms", "kill all s", "launch again s", "MiB an actor"]


def run_spec(folder: str) -> protocol.RunSpec:
    """What light hosts are told; none of it matters to them but the folder of their output."""
    return protocol.RunSpec(
        program="none:none",
        parameters={},
        data="none",
        run_folder=folder,
        batch_size=8,
        epochs=1,
        seed=0,
        devices_per_host=1,
    )


def collect(
    group: Any, enough: Callable[[list[Observation]], bool], seconds: float = LONGEST
) -> list[Observation]:
    """Poll until enough is seen.

    Raises:
        TimeoutError: It does not come, or a host dies meanwhile that should not.
    """
    seen: list[Observation] = []
    deadline = time.monotonic() + seconds
    while not enough(seen):
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(seen)} observations within {seconds:.0f} s")
        seen += group.poll(0.2)
    return seen


def answered(count: int) -> Callable[[list[Observation]], bool]:
    """Whether so many have answered."""
    return lambda seen: sum(isinstance(one, Answered) for one in seen) >= count


def measure(actors: int, folder: str) -> list[Any]:
    """One row of the table."""
    from orchestrator.hosts.ray_hosts import RayHosts

    factory = "benchmarks.light_host:LightHost"
    group = RayHosts(run_spec(folder), ClusterConfig(), pulse_interval=1.0, factory=factory)
    try:
        began = time.perf_counter()
        pids = launch(group, actors, 0)
        launched = time.perf_counter() - began
        memory = sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / actors
        command = timed(group, protocol.Survey(), actors)
        lease = protocol.Lease(0, "plan", 0, 1)
        report = timed(group, protocol.RunLease(lease), actors)
        pulses = pulse_round(group, actors)

        began = time.perf_counter()
        os.kill(pids[-1], signal.SIGKILL)
        collect(group, lambda seen: any(isinstance(one, Died) for one in seen), 60.0)
        seen = time.perf_counter() - began
        began = time.perf_counter()
        group.kill_all()
        killed = time.perf_counter() - began
        began = time.perf_counter()
        launch(group, actors, 1)
        again = time.perf_counter() - began
    finally:
        group.close()
    answers = [1e3 * seconds for pair in (command, report) for seconds in pair]
    return [actors, launched, *answers, 1e3 * pulses, 1e3 * seen, killed, again, memory / 2**20]


def launch(group: Any, actors: int, number: int) -> list[int]:
    """Start all, and wait until each has said who it is; their processes, by rank."""
    group.launch([protocol.Assignment(rank, actors, number) for rank in range(actors)])
    seen = collect(group, answered(actors))
    replies = [one.reply for one in seen if isinstance(one, Answered)]
    pids = {reply.rank: reply.pid for reply in replies if isinstance(reply, protocol.Hello)}
    return [pids[rank] for rank in range(actors)]


def timed(group: Any, command: Any, actors: int) -> tuple[float, float]:
    """Median wall and CPU seconds of the driver until all have answered a command."""
    walls, cpus = [], []
    for _ in range(COMMANDS):
        began, cpu = time.perf_counter(), time.process_time()
        group.send(command)
        collect(group, answered(actors))
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def pulse_round(group: Any, actors: int) -> float:
    """CPU seconds of this process for a pulse of every actor, one a second."""
    cpu, began, pulses = time.process_time(), time.monotonic(), 0
    while time.monotonic() < began + PULSE_SECONDS:
        pulses += sum(isinstance(one, PulseSeen) for one in group.poll(0.2))
    return (time.process_time() - cpu) / pulses * actors


def waiting(pending: int) -> float:
    """Least seconds to ask Ray which of so many pending answers are there."""
    import ray

    @ray.remote(num_cpus=0)
    class Slow:
        def wait(self, seconds: float) -> None:
            time.sleep(seconds)

    actor: Any = Slow.remote()
    try:
        references = [actor.wait.remote(3600.0) for _ in range(pending)]
        found = []
        for _ in range(COMMANDS):
            began = time.perf_counter()
            ray.wait(references, num_returns=1, timeout=0)
            found.append(time.perf_counter() - began)
        return min(found)
    finally:
        ray.kill(actor)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--actors", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--pending", type=int, nargs="*", default=PENDING)
    options = parser.parse_args()
    # Actors import what is here: the benchmark runs from the repository's folder.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])
    with (
        tempfile.TemporaryDirectory(prefix="actors-") as folder,
        RaySession(ClusterConfig(), hosts=max(options.actors)),
    ):
        loads = [os.getloadavg()[0]]
        rows = []
        for number, actors in enumerate(options.actors):
            rows.append(measure(actors, f"{folder}/{number}"))
            loads.append(os.getloadavg()[0])
        print(markdown_table(HEADER, rows), flush=True)
        if options.pending:
            header = ["pending answers", *map(str, options.pending)]
            asked = [f"{1e3 * waiting(count):.3g} ms" for count in options.pending]
            print("\n" + markdown_table(header, [["asking once", *asked]]))
    print(f"\nload of the machine, before and after each: {', '.join(f'{x:.1f}' for x in loads)}")


if __name__ == "__main__":
    main()
