"""Hosts that are told to leave, and other numbers of hosts: the run goes on where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import RayHead, Run
from tests.system.test_recovery import STEPS, assert_same_end, pid_of, undisturbed

__all__ = ["undisturbed"]

pytestmark = pytest.mark.system

ARGUMENTS = (
    "batch_size=512",
    "epochs=2",
    f"max_steps={STEPS}",
    "lease_steps=40",
    "checkpoints.every=40",
    "failures.pulse_interval=0.2",
    "seed=3",
)
"""Leases so long that a run which waits for their ends is found out."""


def in_a_lease(run: Run) -> bool:
    return bool(run.events("restored"))


def test_a_host_that_is_told_to_leave(
    small_flights: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    run = start(f"data={small_flights}", *ARGUMENTS, head=ray_head)
    run.wait_for(in_a_lease, what="a lease")
    pid = pid_of(run, 1)
    os.kill(pid, signal.SIGTERM)
    summary = run.finish()
    assert summary["restarts"] == 0
    (handing,) = run.events("handing_over")
    assert (handing["reason"], handing["culprits"]) == ("preempted", [1])
    (cut,) = run.events("lease_cut")
    assert cut["planned"] == 40
    assert cut["last"] < 40
    assert [event["step"] for event in run.events("restored")] == [0, cut["last"]]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert_same_end(run, undisturbed)


def test_a_driver_that_is_told_to_leave(
    small_flights: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    """It finishes the step, saves and leaves; the same command goes on from that step."""
    run = start(f"data={small_flights}", *ARGUMENTS, "--resume", head=ray_head)
    run.wait_for(in_a_lease, what="a lease")
    hosts = [pid_of(run, rank) for rank in (0, 1)]
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    output, errors = run.process.communicate(timeout=60)
    assert time.monotonic() - began < 40, output + errors
    (interrupted,) = run.events("interrupted")
    step = interrupted["steps"]
    assert 0 < step < 40
    assert (run.folder / "checkpoints" / str(step)).is_dir()
    for pid in hosts:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    again = start(f"data={small_flights}", *ARGUMENTS, "--resume", head=ray_head)
    again.finish()
    assert again.events("restored")[-1]["step"] == step
    assert_same_end(again, undisturbed)
