"""What the driver costs: examples per second under it, against the same steps without Ray.

    python -m benchmarks.orchestration --turns 12

In one run, in turns. The driver trains on its hosts as always. After so many leases it is kept from
going on, and processes of the same number do the very same steps: the same program, plan, batches
and jitted step, joined by `jax.distributed` and looped in Python, with no Ray, lease, pulse or
report. Then it is the driver's turn again. A turn of the driver ends when the report of its last
lease has gone through all that reads it. Compilation and the first steps are in no turn. Losses of
both must be equal to the bit, or the benchmark fails.

Data wait is the share of the hosts' time in leases in which they waited for the next batch. While
one side has its turn the other's pipeline fills up, alike on both sides, so it is also measured
over the warm-up's later half, which nobody interrupts. CPU time is that of all processes of a side:
hosts, driver and Ray's own on the one, the bare processes on the other.

The goals: at least 0.97 of the bare processes' examples per second; data wait below 0.05.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.timing import markdown_table
from orchestrator import Driver, events
from orchestrator.config import RunConfig
from orchestrator.config_loading import load_config
from orchestrator.events import Event, Sink
from orchestrator.run_folder import RunFolder

LONGEST_WAIT = 600.0
"""Seconds for one turn of the bare processes, or for the driver while it is kept waiting."""


@dataclass(frozen=True)
class Turn:
    """One side's part of the same steps."""

    seconds: float
    cpu: float
    """Seconds of all processes of the side."""
    steps: int
    examples: int


class BareProcesses:
    """Processes that do the run's steps by themselves, a few whenever they are told.

    Args:
        config: The run's configuration.
        started: The run's first event.
        plan: File of its plan.
        niceness: What the hosts' processes have: Ray starts them with less priority than usual.
    """

    def __init__(
        self, config: RunConfig, started: events.RunStarted, plan: Path, niceness: int
    ) -> None:
        from orchestrator.hosts.ray_hosts import host_environment
        from workers.mesh import free_address

        run = replace(
            config.run_spec(str(config.data), started.run_folder), total_steps=started.total_steps
        )
        told = {"run": asdict(run), "plan": plan.read_text(), "hosts": config.hosts}
        told |= {"coordinator": free_address("127.0.0.1"), "niceness": niceness}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.orchestration", f"--rank={rank}"],
                env=os.environ | host_environment(run),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(config.hosts)
        ]
        self._tell(json.dumps(told))

    @property
    def pids(self) -> set[int]:
        """The processes."""
        return {process.pid for process in self._processes}

    def run(self, last: int) -> tuple[float, float, list[float]]:
        """Do the steps up to ``last``; returns wall and CPU seconds, and the losses."""
        cpu, began = self._cpu(), time.perf_counter()
        self._tell(str(last))
        heard = [self._hear(process) for process in self._processes]
        seconds = time.perf_counter() - began
        return seconds, self._cpu() - cpu, heard[0]

    def end(self) -> None:
        """End them: they have no more to do."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _tell(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> list[float]:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("["):
                try:
                    return json.loads(line)
                except ValueError:  # what gloo prints begins alike
                    continue
        raise SystemExit("a bare process has ended: its error is above")

    def _cpu(self) -> float:
        return sum(cpu_seconds(psutil.Process(pid)) for pid in self.pids)


class Turns:
    """Follows a run's events; lets bare processes have their turn between two leases.

    Args:
        config: The run's configuration.
        warm_up: Steps before the first turn.
        length: Steps of a turn, at least.
        number: Turns of each side, after which the run is interrupted.
    """

    def __init__(self, config: RunConfig, warm_up: int, length: int, number: int) -> None:
        self.config, self.warm_up, self.length, self.number = config, warm_up, length, number
        self.driver: list[Turn] = []
        self.bare: list[Turn] = []
        self.waits: list[float] = []
        self.undisturbed: dict[str, float] = {}
        self._pids: list[int] = []
        self._processes: BareProcesses | None = None
        self._losses: list[float] = []
        self._examples = 0
        self._first = 0
        self._seconds: dict[str, float] = {}
        self._began, self._cpu_before = 0.0, 0.0

    def __call__(self, wall_time: float, event: Event) -> None:
        """A sink of the run's journal."""
        match event:
            case events.RunStarted():
                self._started = event
            case events.HostStarted():
                self._pids.append(event.pid)
            case events.LeaseDone():
                self._lease_done(event)
            case _:
                pass

    def end(self) -> None:
        """End the bare processes."""
        if self._processes is not None:
            self._processes.end()

    def _lease_done(self, lease: events.LeaseDone) -> None:
        now = time.perf_counter()
        self._losses += lease.losses
        self._examples += lease.examples
        self._seconds = added(self._seconds, lease.seconds)
        if self._processes is None:
            if lease.first >= self.warm_up // 2:
                self.undisturbed = added(self.undisturbed, lease.seconds)
            if lease.last < self.warm_up:
                return
            niceness = psutil.Process(self._pids[0]).nice()
            plan = max(Path(self._started.run_folder).glob("plan-*.json"))
            self._processes = BareProcesses(self.config, self._started, plan, niceness)
            self._bare_turn(self._processes, lease.last)
        elif lease.last >= self._first + self.length:
            cpu = self._driver_cpu() - self._cpu_before
            turn = Turn(now - self._began, cpu, lease.last - self._first, self._examples)
            self.driver.append(turn)
            self.waits.append(waiting_share(self._seconds))
            seconds, cpu = self._bare_turn(self._processes, lease.last)
            self.bare.append(replace(turn, seconds=seconds, cpu=cpu))
            if len(self.bare) == self.number:
                signal.raise_signal(signal.SIGINT)
        else:
            return
        self._losses, self._examples, self._seconds = [], 0, {}
        self._first, self._cpu_before = lease.last, self._driver_cpu()
        self._began = time.perf_counter()

    def _bare_turn(self, processes: BareProcesses, last: int) -> tuple[float, float]:
        seconds, cpu, losses = processes.run(last)
        if losses != self._losses:
            raise SystemExit(f"the losses before step {last} differ: {losses}, {self._losses}")
        return seconds, cpu

    def _driver_cpu(self) -> float:
        assert self._processes is not None
        own = psutil.Process()
        others = [
            one for one in own.children(recursive=True) if one.pid not in self._processes.pids
        ]
        return sum(map(cpu_seconds, [own, *others]))


class MeasuredDriver(Driver):
    """A driver whose events also go to ``turns``, after everyone else."""

    turns: Turns

    def _sinks(self, folder: RunFolder) -> Iterator[Sink]:
        yield from super()._sinks(folder)
        yield self.turns


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process so far; 0 if it is gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def added(one: dict[str, float], other: Any) -> dict[str, float]:
    """Sums by key."""
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in one.keys() | other.keys()}


def waiting_share(seconds: dict[str, float]) -> float:
    """Share of the time in leases that was spent waiting for data."""
    return seconds.get("waiting_for_data", 0.0) / sum(seconds.values())


def bare(rank: int) -> None:
    """One bare process: a plain loop around the jitted step, up to the steps it is told."""
    told = json.loads(sys.stdin.readline())
    os.nice(max(0, told["niceness"] - os.nice(0)))
    import jax

    from kernels import EmbeddingPlan
    from workers.batches import BatchSource
    from workers.compilation import use_compilation_cache
    from workers.data.reader import ExampleReader
    from workers.data.sources import open_dataset
    from workers.mesh import join_process_group, make_mesh
    from workers.planning import TRAIN, order_for, planned_specs
    from workers.program import load_program
    from workers.protocol import RunSpec
    from workers.training import empty_metrics, initial_state, make_train_step

    run = RunSpec(**told["run"])
    use_compilation_cache()
    program = load_program(run.program, run.parameters, run.total_steps)
    join_process_group(told["coordinator"], rank, told["hosts"], 120)
    mesh = make_mesh()
    plan = EmbeddingPlan.from_json(told["plan"])
    specs = planned_specs(program, plan)
    dataset = open_dataset(run.data, TRAIN, program.schema.columns)
    reader = ExampleReader(dataset, program.schema)
    source = BatchSource(order_for(dataset, run), reader, rank, plan, specs, mesh)
    train_step = make_train_step(program, specs, plan, mesh)
    state = initial_state(program, plan, specs, mesh, run.seed)
    metrics = empty_metrics(mesh)
    done, batches = 0, source.start(0, run.total_steps, trains=True)
    for line in sys.stdin:
        losses = []
        while done < int(line):
            state, metrics, outcome = train_step(state, metrics, next(batches).batch)
            batches.tell(outcome.agreed)
            losses.append(outcome.loss)
            done += 1
        jax.block_until_ready(state)
        print(json.dumps([float(loss) for loss in losses]), flush=True)


def report(turns: Turns) -> None:
    """Print the table and the ratios."""
    pairs = list(zip(turns.driver, turns.bare, strict=True))
    rows = []
    for name, side in (("driver", turns.driver), ("bare processes", turns.bare)):
        speed = statistics.median(turn.examples / turn.seconds for turn in side)
        steps = [1000 * turn.seconds / turn.steps for turn in side]
        cpu = [1000 * turn.cpu / turn.steps for turn in side]
        rows.append([name, f"{speed:,.0f}", statistics.median(steps), statistics.median(cpu)])
    print(markdown_table(["", "examples/s", "wall ms a step", "CPU ms a step"], rows))
    ratios = sorted(other.seconds / own.seconds for own, other in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    total = sum(turn.seconds for turn in turns.bare) / sum(turn.seconds for turn in turns.driver)
    cpu = statistics.median(other.cpu / own.cpu for own, other in pairs)
    print(
        f"\nexamples per second, driver / bare: median of {len(pairs)} turns {middle:.3f} "
        f"(quartiles {low:.3f}, {high:.3f}), over all turns {total:.3f} (goal: at least 0.97)"
    )
    print(f"CPU time, bare / driver: {cpu:.3f}")
    print(
        f"data wait: {statistics.median(turns.waits):.4f} of the turns' time, "
        f"{waiting_share(turns.undisturbed):.4f} in the warm-up's later half (goal: below 0.05)"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12, help="turns of each side")
    parser.add_argument("--leases", type=int, default=8, help="leases of a turn")
    parser.add_argument("--warm-up", type=int, default=16, help="leases before the first turn")
    parser.add_argument("--synthetic", action="store_true", help="the click log, not the flights")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", help="of the run: batch_size=2048 and so on")
    given = parser.parse_args()
    if given.rank is not None:
        bare(given.rank)
        return
    config = run_config(given.settings, synthetic=given.synthetic)
    steps = config.lease_steps
    turns = Turns(config, given.warm_up * steps, given.leases * steps, given.turns)
    with tempfile.TemporaryDirectory(prefix="orchestration-") as place:
        try:
            with MeasuredDriver(config, Path(place) / "run", quiet=True) as driver:
                driver.turns = turns
                driver.fit()
        finally:
            turns.end()
    report(turns)


def run_config(overrides: list[str], *, synthetic: bool) -> RunConfig:
    """The configuration of the run: the defaults, without saves and evaluations on the way."""
    from workers.data.flights import prepare_flights

    program = "workers.programs.clicks:program" if synthetic else RunConfig().program
    data = "synthetic" if synthetic else prepare_flights()
    settings = [f"program={program}", f"data={data}", "epochs=1000000"]
    settings += ["checkpoints.every=1000000000", "evaluation.every_epochs=0"]
    settings += [f"failures.pulse_deadline={LONGEST_WAIT}"]
    return load_config(None, [*settings, *overrides])


if __name__ == "__main__":
    main()
