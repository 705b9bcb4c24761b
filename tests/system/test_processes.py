"""A mesh of two processes with two devices each computes what one process with four computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.kernels import test_engine
from tests.runs import run_processes
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
