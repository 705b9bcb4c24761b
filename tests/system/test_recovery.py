"""Signals sent to real host processes: the run ends with the tables of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runs import RayHead, Run
from workers.checkpoint import read_checkpoint

pytestmark = pytest.mark.system

STEPS = 60
ARGUMENTS = (
    "batch_size=512",
    "epochs=2",
    f"max_steps={STEPS}",
    "lease_steps=5",
    "checkpoints.every=10",
    "failures.pulse_deadline=6",
    "seed=3",
)


@pytest.fixture(scope="module")
def undisturbed(
    small_flights: Path, ray_head: RayHead, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)]
    environment = {**os.environ, **ray_head.environment}
    arguments = [f"data={small_flights}", *ARGUMENTS]
    subprocess.run([*command, *arguments], check=True, timeout=240, env=environment)
    return folder


def pid_of(run: Run, rank: int) -> int:
    """The process of a host in the newest launch."""
    return [event for event in run.events("host_started") if event["rank"] == rank][-1]["pid"]


def assert_same_end(run: Run, undisturbed: Path) -> None:
    """Every table, slot variable and parameter, bit for bit, and the loss of every step."""
    ours = read_checkpoint(run.folder / "checkpoints", STEPS)
    theirs = read_checkpoint(undisturbed / "checkpoints", STEPS)
    assert ours.keys() == theirs.keys()
    assert sum(array.size for array in ours.values()) > 100_000
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name]), name
    losses = Run(undisturbed, run.process).losses()
    assert run.losses() == losses
    assert sorted(losses) == list(range(STEPS))


def test_a_killed_host(
    small_flights: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    """Host 0 of all, which holds the coordination service of the mesh."""
    run = start(f"data={small_flights}", *ARGUMENTS, head=ray_head)
    run.wait_for(lambda run: len(run.events("lease_done")) >= 5, what="five leases")
    os.kill(pid_of(run, 0), signal.SIGKILL)
    summary = run.finish()
    assert summary["restarts"] == 1
    assert run.events("recovering")[0]["culprits"] == [0]
    assert run.events("restored")[-1]["step"] >= 10
    assert summary["goodput"]["recovering"] > 0
    assert_same_end(run, undisturbed)


def test_a_frozen_host(
    small_flights: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    run = start(f"data={small_flights}", *ARGUMENTS, head=ray_head)
    run.wait_for(lambda run: len(run.events("lease_done")) >= 5, what="five leases")
    pid = pid_of(run, 1)
    os.kill(pid, signal.SIGSTOP)
    summary = run.finish()
    assert summary["restarts"] == 1
    frozen = run.events("host_frozen")
    assert [event["rank"] for event in frozen] == [1]
    assert frozen[0]["pid"] == pid
    assert run.events("recovering")[0]["culprits"] == [1]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert_same_end(run, undisturbed)


def test_a_killed_driver_is_resumed_by_the_same_command(
    small_flights: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    run = start(f"data={small_flights}", *ARGUMENTS, "--resume", head=ray_head)
    run.wait_for(lambda run: len(run.events("lease_done")) >= 5, what="five leases")
    hosts = [pid_of(run, rank) for rank in (0, 1)]
    run.process.kill()
    run.process.wait()
    again = start(f"data={small_flights}", *ARGUMENTS, "--resume", head=ray_head)
    again.finish()
    assert again.events("restored")[-1]["step"] >= 10
    assert_same_end(again, undisturbed)
    for pid in hosts:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
