"""What a spare process does ahead of its use: all that needs neither devices nor a place.

JAX's backend must not be started: a process joins its mesh before that.
"""

from __future__ import annotations

import importlib

from kernels.errors import EmberayError
from workers.data.sources import read_row_group
from workers.planning import TRAIN
from workers.program import load_program
from workers.protocol import RunSpec
from workers.run_data import RunData

__all__ = ["warm_up"]

_IMPORTED_LATE = ("jax.experimental.multihost_utils", "jaxlib.mlir.dialects.mhlo")
"""Modules that JAX imports when it first joins a mesh or lowers a program."""


def warm_up(run: RunSpec) -> None:
    """Import everything, build the program, and read a row group of the data.

    Args:
        run: The run that the process may become a host of.
    """
    for name in _IMPORTED_LATE:
        try:
            importlib.import_module(name)
        except ImportError:  # another version of JAX
            continue
    try:
        program = load_program(run.program, run.parameters, run.total_steps)
        dataset = RunData(run, program.schema.columns).open(TRAIN)
        # Arrow and the transforms import what they need at their first use.
        read_row_group(dataset.row_groups[0], program.schema, None)
    except EmberayError as error:
        # The hosts, which need it, tell of it.
        print(f"not all could be got ready: {error}", flush=True)
