"""A host that is told to leave: the run goes on where it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import RayHead, Run
from tests.system.undisturbed import ARGUMENTS, assert_same_end, pid_of

pytestmark = pytest.mark.system

LONG_LEASES = (*ARGUMENTS, "lease_steps=40", "checkpoints.every=40", "failures.pulse_interval=0.2")
"""Leases so long that a run which waits for their ends is found out."""


def in_a_lease(run: Run) -> bool:
    return bool(run.events("restored"))


def test_a_host_that_is_told_to_leave(
    small_data: Path, ray_head: RayHead, undisturbed: Path, start: Callable[..., Run]
) -> None:
    run = start(f"data={small_data}", *LONG_LEASES, head=ray_head)
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
