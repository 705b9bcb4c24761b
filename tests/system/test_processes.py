"""A mesh of two processes with two devices each computes what one process with four computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import test_engine
from tests.runs import ROOT
from tests.system.mesh_process import DEVICES, PROCESSES, SEED, STEPS, flat
from workers.mesh import free_address

pytestmark = pytest.mark.system

SECONDS = 240


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    address, file = free_address("127.0.0.1"), tmp_path / "result.npz"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, "-m", "tests.system.mesh_process"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), address, str(file)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(PROCESSES)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()

    want = {}
    for step, (specs, minibatches) in STEPS.items():
        make_specs = getattr(test_engine, specs)
        case = test_engine.Case(make_specs, SEED)
        want[step] = case.run(make_specs, (DEVICES, 1, minibatches), "cpu")
        case.check(*want[step])
    want = flat(want)
    with np.load(file) as got:
        assert set(got) == set(want)
        for path in want:
            np.testing.assert_array_equal(got[path], want[path], err_msg=path)
