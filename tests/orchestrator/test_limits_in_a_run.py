"""The real controller, planner and host, in one process: what becomes of batches beyond limits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kernels.errors import EmberayError
from orchestrator import events, states
from orchestrator.config_loading import make_config
from orchestrator.controller import Controller
from orchestrator.events import Event, Journal
from orchestrator.goodput import Ledger
from orchestrator.hosts.interface import Answered, Observation, Raised
from orchestrator.planning import LaunchPlanner
from orchestrator.schedule import Schedule
from orchestrator.surroundings import Surroundings
from workers.checkpoint import committed_steps
from workers.host import Host
from workers.planning import check_inputs
from workers.program import load_program
from workers.protocol import Assignment, Command, RunSpec

BATCH, GROUPS, HEAVY = 128, 32, (21, 27)
SECONDS = 200


class OneHost:
    """A ``HostGroup`` of one host in this process, which answers before it is asked again."""

    def __init__(self, run: RunSpec) -> None:
        self._run, self._host, self._seen = run, None, list[Observation]()

    def launch(self, assignments: Sequence[Assignment]) -> None:
        (assignment,) = assignments
        self._host = Host(self._run, assignment)
        self._seen.append(Answered(0, self._host.hello()))

    def send(self, command: Command) -> None:
        assert self._host is not None
        try:
            self._seen.append(Answered(0, self._host.execute(command)))
        except EmberayError as error:
            self._seen.append(Raised(0, error))

    def poll(self, timeout: float) -> list[Observation]:
        del timeout
        seen, self._seen = self._seen, []
        return seen

    def room(self) -> int:
        return 0

    def awaits_room(self) -> bool:
        return False

    def last_words(self, rank: int) -> str:
        del rank
        return ""

    def kill_all(self) -> None:
        if self._host is not None:
            self._host.close()
        self._host, self._seen = None, []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with few tags, but for two row groups, which a survey of the first batches misses."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    rows = GROUPS * BATCH
    tags = [
        [f"t{n}" for n in generator.integers(0, 99, 3 if row // BATCH in HEAVY else row % 2)]
        for row in range(rows)
    ]
    item = generator.integers(0, 50, rows)
    table = pa.table(
        {
            "item": item,
            "tags": pa.array(tags, pa.list_(pa.string())),
            "price": generator.normal(size=rows),
            "label": (item % 2 == 0).astype(np.int8),
        }
    )
    (folder / "train").mkdir()
    pq.write_table(table, folder / "train" / "part-0.parquet", row_group_size=BATCH)
    return folder


def led(data: Path, folder: Path, **options: Any) -> tuple[states.State, list[Event]]:
    """Lead a run to its end; its last state and all events."""
    settings = {
        "hosts": 1,
        "devices_per_host": jax.device_count(),
        "batch_size": BATCH,
        "epochs": 1,
        "logical_shards": 1,
        "shuffle_window": 16,
        "lease_steps": 8,
        "program": "tests.workers.small_program:program",
        "checkpoints": {"every": 16},
    }
    config = make_config(settings | options)
    run = config.run_spec(str(data), str(folder))
    program = load_program(run.program, run.parameters)
    inputs = check_inputs(program, run, 1)
    log: list[Event] = []
    group: Any = OneHost(run)
    around = Surroundings(
        group=group,
        planner=LaunchPlanner(program, run, config.fixed_limits),
        committed=lambda: committed_steps(folder / "checkpoints"),
        set_aside=lambda step: None,
        journal=Journal([lambda _, event: log.append(event)]),
        ledger=Ledger(time.monotonic()),
        clock=time.monotonic,
    )
    schedule = Schedule.of(config, inputs.steps_per_epoch, evaluates=False)
    controller = Controller(config, schedule, around, data=inputs.fingerprint)
    until = time.monotonic() + SECONDS
    while not isinstance(state := controller.step(), states.Ended):
        assert time.monotonic() < until, f"no end; at {state}"
    return state, log


def of[E: Event](log: list[Event], kind: type[E]) -> list[E]:
    return [event for event in log if isinstance(event, kind)]


def losses(log: list[Event]) -> list[float]:
    return [loss for lease in of(log, events.LeaseDone) for loss in lease.losses]


def test_a_run_that_meets_larger_batches_than_its_survey_goes_on_without_a_restart(
    data: Path, tmp_path: Path
) -> None:
    state, log = led(data, tmp_path / "run", minibatching=True)
    assert isinstance(state, states.Finished)
    assert not of(log, events.Recovering)
    squeezed, replanned = of(log, events.Squeezed), of(log, events.Replanned)
    assert squeezed
    assert not any(event.dropped for event in squeezed)
    assert {event.reason for event in replanned} == {"squeezed"}
    assert {event.stack for event in replanned} == {"tags"}
    assert {event.step for event in replanned} <= {event.last for event in squeezed}
    assert [event.version for event in of(log, events.PlanConfirmed)] == list(
        range(len(of(log, events.PlanMade)))
    )
    # Compiled anew only where a plan took over.
    leases = of(log, events.LeaseDone)
    compiled = [lease.first for lease in leases if lease.seconds.get("compiling")]
    assert compiled == [0, *sorted({event.step for event in replanned})]
    assert len(losses(log)) == GROUPS
    assert np.isfinite(losses(log)).all()


def test_without_minibatching_the_same_run_starts_anew_with_raised_limits(
    data: Path, tmp_path: Path
) -> None:
    state, log = led(data, tmp_path / "run")
    assert isinstance(state, states.Finished)
    assert {event.cause for event in of(log, events.Recovering)} == {"limits"}
    assert {event.reason for event in of(log, events.Replanned)} == {"refused"}
    assert not of(log, events.Squeezed)
