"""A mesh of two processes with two devices each computes what one process with four computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels import test_engine
from tests.runs import run_processes
from tests.system import late_process
from tests.system.mesh_process import DEVICES, PROCESSES, SEED, STEPS, flat

pytestmark = pytest.mark.system

SECONDS = 240


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    file = tmp_path / "result.npz"
    run_processes("tests.system.mesh_process", PROCESSES, file, SECONDS)

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


def test_a_host_that_is_late_in_its_first_step_is_waited_for(tmp_path: Path) -> None:
    """It may have to compile what the other one finds compiled."""
    run_processes("tests.system.late_process", late_process.PROCESSES, tmp_path / "sum", SECONDS)
    expected = str(2 * sum(range(late_process.DEVICES)))
    for rank in range(late_process.PROCESSES):
        assert (tmp_path / f"sum-{rank}").read_text() == expected
