"""The driver with simulated hosts in place of Ray's, and what it leaves in its folder."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

import workers.planning
import workers.program
from orchestrator import driver
from orchestrator.driver import Driver
from orchestrator.hosts.simulated import SimulatedHosts
from orchestrator.hosts.simulated_world import FakeClock, SimulatedPlan, SimulatedPlanner, World
from orchestrator.json_lines import read_lines
from workers.planning import DataSummary

SETTINGS = {
    "program": "simulated:program",
    "epochs": 2,
    "lease_steps": 10,
    "devices_per_host": 1,
    "checkpoints": {"every": 30},
}


class Simulation:
    """What the driver meets instead of Ray, workers and data."""

    def __init__(self):
        self.faults: Any = None
        self.fingerprint = "one"
        self.data = "data"
        self.error = None
        self.on_poll = lambda hosts: None
        self.worlds = {}
        self.launches = 0

    def open_hosts(self, run, config, stack):
        from pathlib import Path

        simulation = self

        class Hosts(SimulatedHosts):
            folder = Path(run.run_folder) / "checkpoints"

            def launch(self, assignments):
                simulation.launches += 1
                super().launch(assignments)

            def poll(self, timeout):
                simulation.on_poll(self)
                seen = super().poll(timeout)
                self.committed()
                return seen

            def committed(self):
                steps = super().committed()
                for step in steps:
                    (self.folder / str(step)).mkdir(exist_ok=True)
                return steps

        world = self.worlds.setdefault(run.run_folder, World(steps_per_epoch=50, data=self.data))
        return Hosts(FakeClock(), world, faults=self.faults)


@pytest.fixture
def simulation(monkeypatch):
    simulation = Simulation()

    def check_inputs(program, run, hosts):
        if simulation.error is not None:
            raise simulation.error
        return DataSummary(3200, 100, 50, 1, simulation.data)

    program = SimpleNamespace(name="simulated", fingerprint=lambda: simulation.fingerprint)
    monkeypatch.setattr(workers.program, "load_program", lambda *arguments: program)
    monkeypatch.setattr(workers.planning, "resolve_data", lambda program, data: data or "own data")
    monkeypatch.setattr(workers.planning, "check_inputs", check_inputs)
    monkeypatch.setattr(driver, "open_hosts", simulation.open_hosts)
    monkeypatch.setattr(driver, "LaunchPlanner", lambda *arguments: SimulatedPlanner())

    def newest_plan(folder):
        text = folder.newest_plan()
        return None if text is None else SimulatedPlan(**json.loads(text))

    monkeypatch.setattr(driver, "_newest_plan", newest_plan)
    return simulation


def fit(path, *, resume=False, **changes):
    with Driver(SETTINGS | changes, path, resume=resume, quiet=True) as made:
        return made.fit()


def losses(path):
    return [record["step"] for record in read_lines(path / "metrics.jsonl") if "loss" in record
            and "split" not in record]  # fmt: skip


def evaluations(path):
    return [record["step"] for record in read_lines(path / "metrics.jsonl") if "split" in record]
