"""A run that nothing happens to, and comparing others with it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runs import ROOT, RayHead, Run
from tests.system import trapped
from workers.checkpoint import read_checkpoint

__all__ = ["ARGUMENTS", "STEPS", "assert_same_end", "pid_of", "small_data", "undisturbed"]

STEPS = 60
ARGUMENTS = (
    "program=tests.system.trapped:program",
    "batch_size=64",
    "epochs=2",
    f"max_steps={STEPS}",
    "lease_steps=5",
    "checkpoints.every=10",
    "seed=3",
)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data for the program: 41 steps an epoch."""
    return trapped.small_data(tmp_path_factory.mktemp("small-data") / "data")


@pytest.fixture(scope="session")
def undisturbed(
    small_data: Path, ray_head: RayHead, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run with these arguments."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, "-m", "orchestrator", "train", "--run-dir", str(folder)]
    environment = {**os.environ, **ray_head.environment}
    arguments = [f"data={small_data}", *ARGUMENTS]
    subprocess.run([*command, *arguments], check=True, timeout=240, env=environment, cwd=ROOT)
    return folder


def pid_of(run: Run, rank: int) -> int:
    """The process of a host in the newest launch."""
    return [event for event in run.events("host_started") if event["rank"] == rank][-1]["pid"]


def assert_same_end(run: Run, undisturbed: Path) -> None:
    """Every table, slot variable and parameter, bit for bit, and the loss of every step."""
    ours = read_checkpoint(run.folder / "checkpoints", STEPS)
    theirs = read_checkpoint(undisturbed / "checkpoints", STEPS)
    assert ours.keys() == theirs.keys()
    assert sum(array.size for array in ours.values()) > 10_000
    for name, array in ours.items():
        assert np.array_equal(array, theirs[name]), name
    losses = dataclasses.replace(run, folder=undisturbed).losses()
    assert run.losses() == losses
    assert sorted(losses) == list(range(STEPS))
