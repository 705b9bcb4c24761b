"""A run trained in this process, without Ray, and hosts that predict in it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from kernels.errors import EmberayError
from orchestrator.config import RunConfig
from orchestrator.config_loading import make_config
from orchestrator.errors import HostError
from orchestrator.hosts.interface import Answered, Observation, Raised
from orchestrator.json_lines import to_json
from workers import protocol
from workers.host import Host
from workers.planning import make_plan
from workers.prediction_host import PredictionHost
from workers.prediction_protocol import HostCommand, PredictionSpec
from workers.program import load_program
from workers.protocol import Assignment, Lease

__all__ = ["HostsHere", "open_here", "train_here"]


def train_here(folder: Path, saves: Sequence[int], **settings: Any) -> dict[int, dict[str, Any]]:
    """Train on one host with all devices, and leave a run's folder behind.

    Args:
        folder: The run's folder.
        saves: Steps to save and evaluate at.
        settings: Of the run's configuration.

    Returns:
        Figures of the test split by step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config({"hosts": 1, "devices_per_host": jax.device_count(), **settings})
    (folder / "config.yaml").write_text(config.to_yaml())
    program = load_program(config.program, config.parameters)
    run = config.run_spec(str(config.data), str(folder))
    run = dataclasses.replace(run, total_steps=max(saves))
    host = Host(run, Assignment(rank=0, hosts=1, launch=0))
    figures = {}
    try:
        host.execute(protocol.Join(host.hello().address))
        plan = make_plan(program, run, 1, None, None, 0)
        host.execute(protocol.Prepare(plan.to_json()))
        host.execute(protocol.Restore(None))
        for number, (first, last) in enumerate(zip([0, *saves], saves, strict=False)):
            host.execute(protocol.RunLease(Lease(number, plan.hash, first, last, save=True)))
            said: Any = host.execute(protocol.Evaluate("test"))
            figures[last] = said.metrics.result()
            event = {"kind": "evaluated", "step": last, "metrics": figures[last]}
            with (folder / "events.jsonl").open("a") as file:
                file.write(to_json(event) + "\n")
        host.execute(protocol.Finish())
    finally:
        host.close()
    return figures


class HostsHere:
    """A ``HostGroup`` of one host that predicts in this process, when it is polled.

    Args:
        run: What it is told.
        disturb: Called before each command, which it may let fail.
    """

    def __init__(self, run: PredictionSpec, disturb: Callable[[HostCommand], None]) -> None:
        self._run, self._disturb = run, disturb
        self._host: PredictionHost | None = None
        self._commands: list[HostCommand | None] = []

    def launch(self, assignments: Sequence[Assignment]) -> None:
        (assignment,) = assignments
        self._host = PredictionHost(self._run, assignment)
        self._commands = [None]

    def send(self, command: HostCommand) -> None:
        self._commands.append(command)

    def poll(self, timeout: float) -> list[Observation]:
        assert self._host is not None
        seen: list[Observation] = []
        for command in self._commands:
            try:
                if command is None:
                    seen.append(Answered(0, self._host.hello()))
                else:
                    self._disturb(command)
                    seen.append(Answered(0, self._host.execute(command)))
            except Exception as error:
                known = error if isinstance(error, EmberayError) else HostError.of(error)
                seen.append(Raised(0, known, traceback.format_exc()))
        self._commands = []
        return seen

    def room(self) -> int:
        return 0

    def awaits_room(self) -> bool:
        return False

    def hold(self, lease: int) -> None: ...

    def release(self, lease: int, last: int) -> None: ...

    def dump_stacks(self, rank: int) -> None: ...

    def last_words(self, rank: int) -> str:
        return ""

    def kill_all(self) -> None:
        self._host, self._commands = None, []

    def close(self) -> None:
        self.kill_all()


def open_here(
    disturb: Callable[[HostCommand], None] = lambda command: None,
) -> Callable[..., HostsHere]:
    """What takes the place of ``orchestrator.cluster.open_hosts``."""

    def open_hosts(run: Any, config: RunConfig, stack: Any, factory: str) -> HostsHere:
        assert factory == "workers.prediction_host:PredictionHost" and config.hosts == 1
        return HostsHere(run, disturb)

    return open_hosts
