"""What a spare process does ahead of its use."""

import os
import subprocess
import sys

from tests.runs import ROOT

CODE = """
from jax._src import xla_bridge
from workers.protocol import RunSpec
from workers.warm import warm_up

def run(data, program):
    return RunSpec(program, {}, data, "nowhere", 64, 1, 0, 2)

warm_up(run("/nowhere/at/all", "workers.programs.flights:program"))
warm_up(run("synthetic:rows=4096,seed=1", "workers.programs.clicks:program"))
warm_up(run("nothing", "no_such_module:program"))
print("backend" if xla_bridge.backends_are_initialized() else "no backend")
"""


def test_it_starts_no_backend_and_raises_nothing():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))},
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "no backend"
    assert sum("not all could be got ready" in line for line in lines) == 2
    assert "no_such_module" in lines[1]
