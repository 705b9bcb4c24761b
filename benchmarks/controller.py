"""What the driver's own work costs, by number of hosts: leases, pulses and restarts.

    python -m benchmarks.controller --hosts 16 256 1024 4096

The real controller leads simulated hosts, on a clock that jumps from event to event, and writes the
run's files. Counted is the CPU time of the controller and its files alone: what the simulated hosts
take is subtracted. A lease costs its command, every host's answer, their report and the records of
it; a round of pulses a look at every host; a restart all from the verdict on a dead host to the
next lease. Beside that, the bytes of all hosts' answers to a lease, as they are pickled, and the
time to unpickle them, for a global batch of 65,536 samples and leases of 25 steps.

What carries commands and answers (Ray) is not in these figures: see ``benchmarks.orchestration``.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import markdown_table
from orchestrator import states
from orchestrator.config_loading import make_config
from orchestrator.controller import Controller
from orchestrator.events import Journal
from orchestrator.goodput import Ledger
from orchestrator.hosts.faults import Fault, NoFaults, ScriptedFaults
from orchestrator.hosts.simulated import SimulatedHosts
from orchestrator.hosts.simulated_lease import lease_replies
from orchestrator.hosts.simulated_world import FakeClock, SimulatedPlanner, Times, World
from orchestrator.observe.files import EventFile, MetricsFile
from orchestrator.schedule import Schedule
from orchestrator.surroundings import Surroundings
from workers.metrics import BINS, BinaryMetrics
from workers.protocol import Lease

BATCH = 65_536
LEASE_STEPS = 25
NO_PULSE = 1e9


@dataclass
class Spent:
    """CPU seconds of a run, and what they were for."""

    training: float = 0.0
    """While hosts were training."""
    starting: float = 0.0
    """From a launch, or a verdict, to the first lease after it."""
    leases: int = 0
    pulses: int = 0
    """Rounds of them."""
    launches: int = 0


class CountedHosts(SimulatedHosts):
    """Simulated hosts that know how much CPU time they have taken."""

    taken = 0.0

    def _counted[T](self, call: Callable[..., T], *arguments: Any) -> T:
        began = time.process_time()
        result = call(*arguments)
        self.taken += time.process_time() - began
        return result

    def launch(self, assignments: Any) -> None:
        """See ``HostGroup.launch``."""
        self._counted(super().launch, assignments)

    def send(self, command: Any) -> None:
        """See ``HostGroup.send``."""
        self._counted(super().send, command)

    def poll(self, timeout: float) -> list[Any]:
        """See ``HostGroup.poll``."""
        return self._counted(super().poll, timeout)


def lead(hosts: int, leases: int, deaths: int, times: Times, folder: Path) -> Spent:
    """A whole run.

    Args:
        hosts: Number of hosts.
        leases: Leases of the run, of one step each.
        deaths: Hosts that die, each in another lease.
        times: How long things take.
        folder: Where the run's files are written.
    """
    config = make_config(
        {
            "hosts": hosts,
            "devices_per_host": 1,
            "epochs": 1,
            "lease_steps": 1,
            "checkpoints": {"every": 10},
            "evaluation": {"every_epochs": 0},
            "failures": {"launch_timeout": 1e6, "lease_timeout": 1e6, "pulse_deadline": 1e6},
        }
    )
    clock, world = FakeClock(), World(steps_per_epoch=leases)
    struck = [Fault("die", 0, step=leases * (n + 1) // (deaths + 1)) for n in range(deaths)]
    faults = ScriptedFaults(struck) if struck else NoFaults()
    group = CountedHosts(clock, world, faults=faults, times=times)
    files = EventFile(folder / "events.jsonl"), MetricsFile(folder / "metrics.jsonl")
    around = Surroundings(
        group=group,
        planner=SimulatedPlanner(),
        committed=group.committed,
        set_aside=group.set_aside,
        journal=Journal(files),
        ledger=Ledger(0.0),
        clock=clock,
    )
    controller = Controller(config, Schedule.of(config, leases), around, data="data")
    spent = Spent()
    while not isinstance(controller.state, states.Ended):
        before, seconds = controller.state, clock.now
        began, taken = time.process_time(), group.taken
        controller.step()
        own = time.process_time() - began - (group.taken - taken)
        after = controller.state
        if isinstance(before, states.Training) and isinstance(after, states.Training):
            spent.training += own
            spent.pulses += int(clock.now / times.pulse) - int(seconds / times.pulse)
        elif not isinstance(after, states.Finishing | states.Ended):
            spent.starting += own
        starts = isinstance(after, states.Launching) and not isinstance(before, states.Launching)
        spent.launches += starts
    for file in files:
        file.close()
    spent.leases = len(world.leases)
    return spent


def answers(hosts: int) -> tuple[int, float]:
    """Bytes of all hosts' answers to a lease, and the CPU seconds to unpickle them.

    Args:
        hosts: Number of hosts: each has its share of the batch.
    """
    generator = np.random.default_rng(0)
    samples = max(1, BATCH * LEASE_STEPS // hosts)
    bins = np.clip((generator.beta(2, 6, samples) * BINS).astype(int), 0, BINS - 1)
    is_positive = generator.random(samples) < 0.25
    metrics = BinaryMetrics(
        np.bincount(bins[is_positive], minlength=BINS).astype(float),
        np.bincount(bins[~is_positive], minlength=BINS).astype(float),
        0.5 * samples,
        float(samples),
        0.25 * samples,
    )
    lease = Lease(0, "plan", 0, LEASE_STEPS)
    reply = lease_replies(World(1000), lease, hosts, 0.0, Times(), limit=1)(0)
    data = pickle.dumps(replace(reply, metrics=metrics))
    rounds = 50
    began = time.process_time()
    for _ in range(rounds):
        pickle.loads(data)
    return len(data) * hosts, (time.process_time() - began) / rounds * hosts


def measure(hosts: int, leases: int) -> list[Any]:
    """One row of the table."""
    starts = 5
    with tempfile.TemporaryDirectory() as name:
        quiet = Times(pulse=NO_PULSE, step=0.1)
        plain = min(
            (lead(hosts, leases, starts, quiet, Path(name)) for _ in range(3)),
            key=lambda spent: spent.training,
        )
        a_lease = plain.training / plain.leases
        slow = lead(hosts, 10, 0, Times(step=20.0), Path(name))
    a_round = max(0.0, slow.training - a_lease * slow.leases) / slow.pulses
    a_start = plain.starting / plain.launches
    size, unpickling = answers(hosts)
    return [
        hosts,
        f"{1e3 * a_lease:.2f} ms",
        f"{1e6 * a_lease / hosts:.1f} µs",
        f"{1e3 * a_round:.2f} ms",
        f"{1e3 * a_start:.1f} ms",
        f"{size / 2**20:.2f} MiB",
        f"{1e3 * unpickling:.2f} ms",
    ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[16, 256, 1024, 4096])
    parser.add_argument("--leases", type=int, default=100)
    arguments = parser.parse_args()
    header = ["hosts", "a lease", "of it a host", "a round of pulses", "a restart"]
    header += ["answers to a lease", "unpickling them"]
    rows = [measure(hosts, arguments.leases) for hosts in arguments.hosts]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
