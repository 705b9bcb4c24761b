"""A real run under random faults ends as an undisturbed one, and reads every row once an epoch.

In this file's own size it takes about two minutes. For a long one:

    EMBERAY_CHAOS_FAULTS=24 EMBERAY_CHAOS_HOSTS=3 EMBERAY_CHAOS_SEED=7 pytest tests/chaos
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.chaos.faults import MOMENTS, Strike, moment_has_come, strike, strikes
from tests.runs import RayHead, Run
from workers.checkpoint import read_checkpoint

pytestmark = pytest.mark.system

FAULTS = int(os.environ.get("EMBERAY_CHAOS_FAULTS", "2"))
HOSTS = int(os.environ.get("EMBERAY_CHAOS_HOSTS", "2"))
SEED = int(os.environ.get("EMBERAY_CHAOS_SEED", "1"))
BATCH = 480
EPOCHS = 2 + FAULTS // 4
EVALUATES = 12


def rows_by_step(folder: Path, hosts: int) -> dict[int, list[int]]:
    """Row ids of every step's batch; a step that was done again must have had the same ones.

    A line that its writer did not finish when it was killed is passed over: the step was lost, and
    done again.
    """
    steps: dict[int, dict[int, list[int]]] = {}
    for rank in range(hosts):
        for line in (folder / "rows" / f"host-{rank}.jsonl").read_text().split("\n"):
            begin = line.rfind('{"step"')
            try:
                record = json.loads(line[max(begin, 0) :])
            except json.JSONDecodeError:
                continue
            known = steps.setdefault(record["step"], {}).setdefault(rank, record["rows"])
            assert known == record["rows"], f"step {record['step']} on host {rank}"
    for step, by_rank in steps.items():
        assert sorted(by_rank) == list(range(hosts)), f"step {step}"
    return {step: [row for rank in sorted(by) for row in by[rank]] for step, by in steps.items()}


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    """Figures of every evaluation by step, each of which stands once."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = [(line["step"], line["metrics"]) for line in lines if "split" in line]
    assert len(found) == len(dict(found))
    return dict(found)


def test_a_run_under_random_faults(
    small_flights: Path, ray_head: RayHead, start: Callable[..., Run]
) -> None:
    train = pq.ParquetFile(small_flights / "train" / "part-0.parquet").metadata.num_rows
    an_epoch = -(-train // BATCH)
    total = an_epoch * EPOCHS
    arguments = (
        f"data={small_flights}",
        f"batch_size={BATCH}",
        f"epochs={EPOCHS}",
        f"hosts={HOSTS}",
        "evaluation.every_epochs=0",
        f"evaluation.every_steps={EVALUATES}",
        "lease_steps=4",
        "checkpoints.every=8",
        "record_rows=true",
        "failures.restart_delay=0.1",
        f"failures.max_restarts={3 * FAULTS + 8}",
        f"seed={SEED}",
    )
    calm = start(*arguments, name="calm", head=ray_head)
    arguments = (*arguments, "failures.pulse_deadline=6")  # those that are frozen are waited for
    run = start(*arguments, name="struck", head=ray_head)
    launch = 0
    faults = strikes(SEED, FAULTS, HOSTS, total)
    for fault in faults:
        launch = strike(run, fault, launch, HOSTS, EVALUATES) + 1
        if fault.on_driver:
            run.process.wait(30)
            run = start(*arguments, "--resume", name="struck", head=ray_head)
    summary = run.finish(seconds=1200)
    assert summary["status"] == "finished"
    assert calm.finish(seconds=1200)["restarts"] == 0
    assert summary["restarts"] >= FAULTS - sum(fault.on_driver for fault in faults)

    ours = read_checkpoint(run.folder / "checkpoints", total)
    theirs = read_checkpoint(calm.folder / "checkpoints", total)
    assert ours.keys() == theirs.keys()
    assert sum(array.size for array in ours.values()) > 100_000
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name]), name
    assert run.losses() == calm.losses()
    assert sorted(run.losses()) == list(range(total))
    assert evaluations(run.folder) == evaluations(calm.folder)
    assert len(evaluations(run.folder)) == -(-total // EVALUATES)

    consumed = rows_by_step(run.folder, HOSTS)
    assert sorted(consumed) == list(range(total))
    for epoch in range(EPOCHS):
        steps = range(epoch * an_epoch, (epoch + 1) * an_epoch)
        rows = [row for step in steps for row in consumed[step] if row >= 0]
        assert np.bincount(rows, minlength=train).tolist() == [1] * train
    assert consumed == rows_by_step(calm.folder, HOSTS)


def test_faults_are_the_same_for_the_same_seed() -> None:
    assert strikes(3, 20, 4, 1000) == strikes(3, 20, 4, 1000)
    assert strikes(3, 20, 4, 1000) != strikes(4, 20, 4, 1000)
    drawn = strikes(3, 200, 4, 1000)
    assert {fault.moment for fault in drawn} == set(MOMENTS)
    assert {fault.number for fault in drawn} == {signal.SIGKILL, signal.SIGSTOP}
    assert {fault.number for fault in drawn if fault.on_driver} == {signal.SIGKILL}
    assert {len(fault.ranks) for fault in drawn} == {0, 1, 2}
    assert {rank for fault in drawn for rank in fault.ranks} == {0, 1, 2, 3}


def test_a_fault_waits_for_its_moment() -> None:
    def seen(*kinds: str | int) -> list[dict[str, object]]:
        """Events of launch 1 after one lease of launch 0; a number is the end of a lease."""
        lease = {"kind": "lease_done"}
        begun = [{"kind": "launching", "launch": 0}, lease | {"last": 24}]
        told = [lease | {"last": k} if isinstance(k, int) else {"kind": k} for k in kinds]
        return [*begun, {"kind": "launching", "launch": 1}, *told]

    def come(moment: str, *kinds: str | int) -> bool:
        fault = Strike(moment, 12, (0,), signal.SIGKILL, 0.0)  # type: ignore[arg-type]
        return moment_has_come(fault, 1, seen(*kinds), evaluates=12)

    assert come("starting")
    assert not come("restoring")
    assert come("restoring", "restoring")
    assert not come("compiling", "restoring")
    assert come("compiling", "restoring", "restored")
    assert not come("training", "restored")
    assert not come("training", "restored", 8)
    assert come("training", "restored", 16)
    assert not come("saving", "restored", 16)
    assert come("saving", "restored", 16, "checkpoint_started")
    assert not come("saving", "restored", 16, "checkpoint_started", 20, 22)
    assert come("evaluating", "restored", 24)
    assert come("evaluating", "restored", 24, "checkpoint_started")
    assert not come("evaluating", "restored", 20)
    assert not come("evaluating", "restored", 24, "evaluated")
