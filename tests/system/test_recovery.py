"""Signals sent to real processes: the run ends with the tables of an undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import RayHead, Run
from tests.system.trapped import Trap, set_traps
from tests.system.undisturbed import ARGUMENTS, STEPS, assert_same_end, pid_of

pytestmark = pytest.mark.system

EVALUATED = 41
"""Step at the end of the first epoch."""

Start = Callable[..., Run]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_hosts_that_die_while_they_compile_save_train_and_restore(
    small_data: Path, ray_head: RayHead, undisturbed: Path, start: Start, tmp_path: Path
) -> None:
    """Host 0, which holds the coordination service, host 1, and both at once; with spares."""
    traps = set_traps(
        tmp_path / "traps.json",
        Trap("compiling", ranks=(1,)),
        Trap("saving", ranks=(0,)),
        Trap("training", step=23),
        Trap("restoring", ranks=(0,)),
    )
    run = start(f"data={small_data}", *ARGUMENTS, traps, "cluster.spares=2", head=ray_head)
    summary = run.finish(seconds=400)
    sprung = {file.name for file in tmp_path.glob("traps.json.*")}
    assert sprung == {f"traps.json.{which}" for which in ("0-1", "1-0", "2-0", "2-1", "3-0")}
    assert summary["restarts"] == 4
    culprits = [event["culprits"] for event in run.events("recovering")]
    assert culprits[0] == [1]
    # Where the coordination service dies, the other host ends itself, and may be seen with it.
    assert 0 in culprits[1]
    assert set(culprits[2]) <= {0, 1}
    assert 0 in culprits[3]
    # The save that was not committed never was: all began anew.
    *before, last = [event["step"] for event in run.events("restored")]
    assert before == [0, 0, 0]
    assert last in (10, 20)  # as far as it was committed when both died
    assert len(summary["recoveries"]) >= 2
    assert summary["goodput"]["recovering"] > 0
    newest = {event["pid"] for event in run.events("host_started") if event["launch"] == 4}
    assert all(is_gone(event["pid"]) for event in run.events("host_started"))
    assert len(newest) == 2
    assert_same_end(run, undisturbed)


def test_a_frozen_host_is_named_and_looked_into(
    small_data: Path, ray_head: RayHead, undisturbed: Path, start: Start, tmp_path: Path
) -> None:
    traps = set_traps(tmp_path / "traps.json", Trap("training", (1,), step=23, signal="SIGSTOP"))
    # Longer than the stacks take to come: they are waited for no longer than that.
    patience = ("failures.grace=60", "failures.pulse_deadline=6")
    run = start(f"data={small_data}", *ARGUMENTS, traps, *patience, head=ray_head)
    summary = run.finish(seconds=400)
    assert summary["restarts"] == 1
    (frozen,) = run.events("host_frozen")
    assert frozen["rank"] == 1
    assert is_gone(frozen["pid"])
    (recovering,) = run.events("recovering")
    assert recovering["culprits"] == [1]
    again = [event for event in run.events("launching") if event["launch"] == 1]
    assert again[0]["time"] - recovering["time"] < 60
    waiting = (run.folder / "stacks" / "launch-0-host-0.txt").read_text()
    assert "_run_lease" in waiting
    culprit = (run.folder / "stacks" / "launch-0-host-1.txt").read_text()
    # It stops a moment after it sent itself the signal. Where a process may not look into another
    # one, the file says so.
    assert "_run_lease (" in culprit or "CAP_SYS_PTRACE" in culprit, culprit
    assert_same_end(run, undisturbed)


def test_a_driver_that_is_killed_and_one_that_is_told_to_leave(
    small_data: Path, ray_head: RayHead, undisturbed: Path, start: Start, tmp_path: Path
) -> None:
    """Both in the middle of an evaluation; in between the newest checkpoint is cut short.

    At last it is stopped for a while.
    """
    slow = Trap("evaluating", signal="", seconds=3.0)
    traps = set_traps(tmp_path / "traps.json", slow)
    marks = [tmp_path / f"traps.json.0-{rank}" for rank in slow.ranks]
    arguments = (f"data={small_data}", *ARGUMENTS, traps, "failures.preemption_grace=60")

    def evaluating(run: Run) -> bool:
        """On both hosts; that all have come to the end of the epoch is not enough."""
        return all(mark.exists() for mark in marks)

    run = start(*arguments, "--resume", head=ray_head)
    run.wait_for(evaluating, what="an evaluation")
    assert run.events("lease_done")[-1]["last"] == EVALUATED
    hosts = [pid_of(run, rank) for rank in (0, 1)]
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 60
    while not all(map(is_gone, hosts)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for mark in marks:
        mark.unlink()

    newest = max(int(p.name) for p in (run.folder / "checkpoints").iterdir() if p.name.isdecimal())
    largest = max(
        (file for file in (run.folder / "checkpoints" / str(newest)).rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_size,
    )
    os.truncate(largest, largest.stat().st_size // 2)

    run = start(*arguments, "--resume", head=ray_head)
    run.wait_for(evaluating, what="an evaluation")
    (skipped,) = run.events("checkpoint_skipped")
    assert skipped["step"] == newest
    assert (run.folder / "checkpoints" / f"{newest}.unreadable").is_dir()
    run.process.send_signal(signal.SIGTERM)
    run.process.wait(90)
    assert [event["step"] for event in run.events("evaluation_cut")] == [EVALUATED], run.events()
    assert [event["steps"] for event in run.events("interrupted")] == [EVALUATED]
    assert (run.folder / "checkpoints" / str(EVALUATED)).is_dir()
    assert not run.events("evaluated")

    set_traps(tmp_path / "traps.json")
    before = len(run.events("recovering"))
    last = start(*arguments, "--resume", "failures.pulse_deadline=4", head=ray_head)
    last.wait_for(lambda run: run.events("restored")[-1]["step"] == EVALUATED, what="a start")
    # A driver that is stopped, as by Ctrl-Z, does not take it for silence of the hosts.
    last.process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    last.process.send_signal(signal.SIGCONT)
    last.finish(seconds=400)
    assert len(last.events("recovering")) == before
    assert last.events("restored")[-1]["step"] == EVALUATED
    assert [event["step"] for event in last.events("evaluated")] == [EVALUATED, STEPS]
    assert_same_end(last, undisturbed)
